"""Packed attention on a CPU: each block of queries is a few batched matrix products and a softmax."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from tutelage.model.attention.paths import starts_of

QUERY_BLOCK = 256
"""Queries that meet their keys at a time: bounds the scores that are held, and skips most of what is masked."""


@dataclass(frozen=True)
class CpuLayout:
    """For the CPU: blocks of queries with the ranges of keys that each block sees.

    Attributes:
        blocks: (blocks, 5) int64. A row (start, stop, own, from, to) stands for the queries start … stop − 1. They attend to the
            tokens of the ranges ``above[from:to]``, then causally to the tokens from `own` on.
        above: (ranges, 2) int64, start and stop of each range of ancestors.
    """

    blocks: torch.Tensor
    above: torch.Tensor

    @staticmethod
    def of(ends: torch.Tensor) -> CpuLayout:
        """The layout of a pack with subtree ends `ends` (tokens,)."""
        return CpuLayout(*_blocks(ends))

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
        attended: torch.Tensor = _attend_cpu(*(tensor.squeeze(0) for tensor in (query, key, value)), self.blocks, self.above, scaling)
        return attended.unsqueeze(0)


def _blocks(ends: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`CpuLayout.blocks` and `CpuLayout.above` of a pack."""
    values = ends.numpy()
    starts = starts_of(values).tolist()
    blocks: list[tuple[int, int, int, int, int]] = []
    above: list[tuple[int, int]] = []
    path: list[tuple[int, int]] = []  # ranges of tokens, from a root down
    for start, stop in zip(starts, [*starts[1:], len(values)], strict=True):
        while path and values[path[-1][0]] <= start:
            path.pop()
        if path:  # of the last range, those whose subtree is still open
            first, after = path[-1]
            path[-1] = (first, first + int((values[first:after] > start).sum()))
        known = len(above)
        above += path
        blocks += [(first, min(first + QUERY_BLOCK, stop), start, known, len(above)) for first in range(start, stop, QUERY_BLOCK)]
        path.append((start, stop))
    return torch.tensor(blocks), torch.tensor(above, dtype=torch.long).view(-1, 2)


@torch.library.custom_op("tutelage::packed_attention", mutates_args=())
def _attend_cpu(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, blocks: torch.Tensor, above: torch.Tensor, scaling: float
) -> torch.Tensor:
    """query (heads, tokens, size), key and value (key heads, tokens, size) → (tokens, heads, size).

    Query heads that share a key head are one matrix, so each block is a few batched matrix products and a softmax, which is
    faster on a CPU than its flash kernel. Like that one it keeps no probabilities for the backward pass.
    """
    heads, tokens, _ = query.shape
    attended = query.new_empty(tokens, heads, value.shape[-1])
    query = query * scaling
    for start, stop, sees in _each(blocks, above):
        probs = _probabilities(_grouped(query[:, start:stop], len(key)), _gather(key, sees), stop - start)
        part = torch.bmm(probs, _gather(value, sees))
        attended[start:stop] = part.view(heads, stop - start, -1).transpose(0, 1)
    return attended


@_attend_cpu.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *others: Any) -> torch.Tensor:
    return query.new_empty(query.shape[1], query.shape[0], value.shape[-1])


@torch.library.custom_op("tutelage::packed_attention_backward", mutates_args=())
def _attend_cpu_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    blocks: torch.Tensor,
    above: torch.Tensor,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of query, key and value; the probabilities are computed again."""
    heads, groups = len(query), len(key)
    by_query = torch.empty_like(query)
    # many blocks add to one token above them: in float32
    by_key, by_value = (torch.zeros_like(it, dtype=torch.promote_types(it.dtype, torch.float32)) for it in (key, value))
    query, gradient = query * scaling, gradient.transpose(0, 1)
    for start, stop, sees in _each(blocks, above):
        q, k, g = _grouped(query[:, start:stop], groups), _gather(key, sees), _grouped(gradient[:, start:stop], groups)
        probs = _probabilities(q, k, stop - start)
        _scatter(by_value, torch.bmm(probs.transpose(1, 2), g), sees)
        by_probs = torch.bmm(g, _gather(value, sees).transpose(1, 2))
        by_scores = torch.ops.aten._softmax_backward_data(by_probs, probs, -1, probs.dtype)
        by_query[:, start:stop] = torch.bmm(by_scores, k).view(heads, stop - start, -1)
        _scatter(by_key, torch.bmm(by_scores.transpose(1, 2), q), sees)
    return by_query.mul_(scaling), by_key.to(key.dtype), by_value.to(value.dtype)


@_attend_cpu_backward.register_fake
def _(gradient: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *others: Any) -> Any:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    *tensors, ctx.scaling = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return (*_attend_cpu_backward(gradient, *ctx.saved_tensors, ctx.scaling), None, None, None)


_attend_cpu.register_autograd(_backward, setup_context=_save_for_backward)


def _probabilities(q: torch.Tensor, k: torch.Tensor, width: int) -> torch.Tensor:
    """softmax(q kᵀ) of a block, (key heads, heads per key head × queries, keys), zero where a key comes later."""
    scores = torch.bmm(q, k.transpose(1, 2))
    scores.view(len(q), -1, width, scores.shape[-1])[..., -width:] += _later(width, scores.dtype)
    return torch.softmax(scores, dim=-1)


@functools.lru_cache(maxsize=2 * QUERY_BLOCK)
def _later(width: int, dtype: torch.dtype) -> torch.Tensor:
    """(width, width), −inf above the diagonal, else 0."""
    return torch.full((width, width), -torch.inf, dtype=dtype).triu_(1)


def _grouped(tensor: torch.Tensor, groups: int) -> torch.Tensor:
    """(heads, queries, size) → (key heads, heads per key head × queries, size)."""
    return tensor.reshape(groups, -1, tensor.shape[-1])


def _each(blocks: torch.Tensor, above: torch.Tensor) -> Iterator[tuple[int, int, list[list[int]]]]:
    """Each block's first query, the one after its last, and the ranges of tokens that it sees, its own last."""
    ranges = above.tolist()
    for start, stop, own, first, last in blocks.tolist():
        yield start, stop, [*ranges[first:last], [own, stop]]


def _gather(tensor: torch.Tensor, ranges: list[list[int]]) -> torch.Tensor:
    """(heads, tokens, size) → (heads, tokens of the ranges, size)."""
    return torch.cat([tensor[:, start:stop] for start, stop in ranges], dim=1)


def _scatter(total: torch.Tensor, part: torch.Tensor, ranges: list[list[int]]) -> None:
    """Add to `total` what belongs to the tokens of the ranges: the transpose of `_gather`."""
    for (start, stop), piece in zip(ranges, part.split([stop - start for start, stop in ranges], dim=1), strict=True):
        total[:, start:stop] += piece
