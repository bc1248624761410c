"""How fast the device multiplies matrices, and how many floating-point operations a step needs."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import Any

import torch

from tutelage.model import Batch, Policy

USUAL_SHARE = 0.4
"""The share of the matrix rate that training is reckoned to reach."""
LONGEST_PRODUCT = 1.0
"""Seconds that a matrix product may take that is measured."""


@functools.cache
def matrix_rate(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> float:
    """Floating-point operations per second of a large matrix product on this device, measured now: the best of a few.

    "Large" is what is done in a moment: a CPU may have no instructions for a type.
    """
    rate, sizes = 0.0, (8192,) if device.type == "cuda" else (256, 1024, 2048)
    for size in sizes:
        if rate and 2 * size**3 / rate > LONGEST_PRODUCT:
            break
        a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
        best = float("inf")
        for _ in range(6):
            _synchronize(device)
            started = time.perf_counter()
            a @ b
            _synchronize(device)
            best = min(best, time.perf_counter() - started)
        rate = 2 * size**3 / best
    return rate


@functools.cache
def memory_rate(device: torch.device) -> float:
    """Bytes per second that are read from this device's memory, measured now by a sum: the best of a few."""
    size, best = (1 << 30 if device.type == "cuda" else 1 << 27), float("inf")
    values = torch.ones(size // 4, device=device)
    for _ in range(4):
        _synchronize(device)
        started = time.perf_counter()
        values.sum()
        _synchronize(device)
        best = min(best, time.perf_counter() - started)
    return size / best


def step_flops(policy: Policy, batch: Batch) -> float:
    """Floating-point operations of a batch, forward and backward, by its distinct tokens: six for each weight that a token meets,
    and twelve per pair of tokens that attend and unit of a head's width. What is computed again does not count.

    Frozen weights need no gradient of their own: four instead of six. Every expert of a mixture counts, chosen or not.
    """
    tokens, targets = batch.input_ids.numel(), len(batch.sources)
    return float(_of_a_token(policy) * tokens + _operations(policy.head.weight) * targets + _of_a_pair(policy) * _pairs(batch))


def pair_cost(policy: Policy) -> float:
    """What a pair of tokens that attend costs, beside what a token costs in the layers."""
    return _of_a_pair(policy) / _of_a_token(policy)


def _of_a_token(policy: Policy) -> int:
    elsewhere = {id(policy.head.weight), id(policy.model.get_input_embeddings().weight)}
    return sum(_operations(weight) for weight in policy.model.parameters() if weight.ndim >= 2 and id(weight) not in elsewhere)


def _of_a_pair(policy: Policy) -> int:
    config: Any = policy.model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None) or 0  # a recurrent model has none
    size: int = getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1)
    return 12 * size * heads * int(config.num_hidden_layers)


def _operations(weight: torch.Tensor) -> int:
    return weight.numel() * (6 if weight.requires_grad else 4)


def _pairs(batch: Batch) -> int:
    """How many (query, key) pairs attend."""
    if batch.ends is None:
        rows, width = batch.input_ids.shape
        return rows * width * (width + 1) // 2
    return int(batch.position_ids.sum()) + batch.position_ids.numel()


def memory_in_use(device: torch.device) -> float | None:
    """GB: of a GPU the most that was allocated since this was last asked; on a CPU what the process has in memory now, where the
    system tells."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return round(peak / 1e9, 3)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e9, 3)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
