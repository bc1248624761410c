"""What generating responses needs, by the training model itself or by an engine beside it, reckoned from shapes."""

from __future__ import annotations

from typing import Any

from tutelage.machines import local_part
from tutelage.model import Policy, head_size
from tutelage.resources.memory import shapes_and_weights

ENGINE_OVERHEAD = 2e9
"""Bytes that vLLM takes beyond weights and cache: its libraries, its buffers, on a GPU its context and graphs."""
ENGINE_ASLEEP = 1e9
"""Bytes of a GPU that vLLM keeps while it sleeps (level 1): its context and graphs; weights wait in the host's memory, the cache is
gone. Reckoned, not measured."""


def native_bytes(policy: Policy, rows: int, prompt: int, longest: int) -> float:
    """Bytes that generation by the policy itself needs beyond weights and moments: bfloat16 copies, keys and values of so many rows,
    the prompts' way through one layer, and the logits of a token.

    On CUDA, shapes are fixed: rows are a power of two, their length is rounded up, keys and values of the prompts are there beside
    those of the rows for a moment, and the graphs of a step hold what choosing a token by top-p needs.

    Args:
        prompt, longest: tokens of the longest prompt, and of prompt + response at most.
    """
    s, weights = shapes_and_weights(policy)
    copies = 2.0 * sum(local_part(weight).numel() for weight in weights) if s.mixed else 0.0
    passing = rows * prompt * (s.width * (3 * s.intermediate + s.attended + 2 * s.hidden) + 8 * s.hidden)
    held, choice, graphs = rows * longest, 20.0 * rows * s.vocabulary, 0.0
    if policy.device.type == "cuda":
        all_rows = 1 << (rows - 1).bit_length()
        held = all_rows * (longest + max(64, longest // 4)) + rows * prompt
        choice = graphs = 48.0 * all_rows * s.vocabulary
    cache = held * numbers_of_a_key(policy) * s.width
    return copies + cache * (1 + 1 / s.depth) + graphs + max(passing, choice)


def engine_bytes(policy: Policy, longest: int) -> float:
    """Bytes that a vLLM engine needs at least."""
    return sum(engine_parts(policy, longest).values())


def engine_parts(policy: Policy, longest: int) -> dict[str, float]:
    """`engine_bytes` by name: its weights, the keys and values of eight longest sequences, and what it computes in."""
    width = 4 if policy.precision == "fp32" else 2
    weights = float(width * shapes_and_weights(policy)[0].own)
    return {"weights": weights, "cache": 8.0 * longest * engine_key_bytes(policy), "overhead": ENGINE_OVERHEAD}


def engine_key_bytes(policy: Policy) -> float:
    """Bytes that a vLLM engine's cache of keys and values holds of a token."""
    return (4.0 if policy.precision == "fp32" else 2.0) * numbers_of_a_key(policy)


def numbers_of_a_key(policy: Policy) -> int:
    """Numbers of the keys and values of one token in all layers."""
    config: Any = policy.model.config.get_text_config()
    # a recurrent model has no heads
    heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", None) or 1
    return int(2 * config.num_hidden_layers * heads * head_size(config))
