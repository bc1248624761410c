"""The contract: what `from tutelage import …` offers. A name is removed, renamed or added here on purpose, or not at all."""

from __future__ import annotations

import tutelage

CONTRACT = [
    "Config",
    "InputError",
    "RunError",
    "build_text_pairs",
    "compute_entropy",
    "filter_correct_dataset",
    "get_response_log_probs",
    "init_vllm",
    "load_config",
    "load_data",
    "load_policy_into_vllm_instance",
    "log_generations",
    "log_generations_vllm",
    "masked_mean",
    "masked_normalize",
    "question_only_reward_fn",
    "r1_zero_reward_fn",
    "reward_fn_response_vs_gt",
    "sft_microbatch_train_step",
    "tokenize_prompt_and_output",
    "train_one_size",
]


def test_the_package_offers_the_names_of_the_contract_and_no_others():
    assert tutelage.__all__ == CONTRACT


def test_every_name_of_the_contract_is_defined_in_the_package():
    for name in CONTRACT:
        assert getattr(tutelage, name).__module__.startswith("tutelage."), name
