"""Tutelage: supervised fine-tuning of reasoning language models.

The public names are loaded when they are first used, so that ``import tutelage`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tutelage.config import Config, load_config
    from tutelage.data import filter_correct_dataset, load_data
    from tutelage.engines import init_vllm, load_policy_into_vllm_instance
    from tutelage.errors import InputError, RunError
    from tutelage.evaluate import log_generations, log_generations_vllm
    from tutelage.grading import question_only_reward_fn, r1_zero_reward_fn
    from tutelage.objective import compute_entropy, get_response_log_probs, masked_normalize, sft_microbatch_train_step
    from tutelage.shapes import build_text_pairs
    from tutelage.tokens import tokenize_prompt_and_output
    from tutelage.train import train_one_size

_HOMES = {
    "Config": "config",
    "InputError": "errors",
    "RunError": "errors",
    "build_text_pairs": "shapes",
    "compute_entropy": "objective",
    "filter_correct_dataset": "data",
    "get_response_log_probs": "objective",
    "init_vllm": "engines",
    "load_config": "config",
    "load_data": "data",
    "load_policy_into_vllm_instance": "engines",
    "log_generations": "evaluate",
    "log_generations_vllm": "evaluate",
    "masked_normalize": "objective",
    "question_only_reward_fn": "grading",
    "r1_zero_reward_fn": "grading",
    "sft_microbatch_train_step": "objective",
    "tokenize_prompt_and_output": "tokens",
    "train_one_size": "train",
}

__all__ = [
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
    "masked_normalize",
    "question_only_reward_fn",
    "r1_zero_reward_fn",
    "sft_microbatch_train_step",
    "tokenize_prompt_and_output",
    "train_one_size",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tutelage' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tutelage.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
