"""Tutelage: supervised fine-tuning of reasoning language models.

The public names are loaded when they are first used, so that ``import tutelage`` costs nothing.
"""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.config import Config, load_config
    from tutelage.data import build_text_pairs, filter_correct_dataset, load_data, tokenize_prompt_and_output
    from tutelage.errors import InputError, RunError
    from tutelage.evaluation import init_vllm, load_policy_into_vllm_instance, log_generations, log_generations_vllm
    from tutelage.grading import question_only_reward_fn, r1_zero_reward_fn, reward_fn_response_vs_gt
    from tutelage.model import compute_entropy, get_response_log_probs, masked_mean, masked_normalize, sft_microbatch_train_step
    from tutelage.training import train_one_size

__getattr__, __dir__, __all__ = lazily(__name__)
