"""The contract of a variable-length kernel, in plain torch: what FlashAttention computes, on any device and in any precision."""

from __future__ import annotations

import itertools

import torch

from tutelage.model.attention import Kernel


def kernel() -> Kernel:
    """A kernel of the CPU that is laid out as FlashAttention is."""
    return Kernel("varlen", torch.device("cpu"), varlen)


def varlen(query, key, value, bounds, scaling):
    return _varlen(query, key, value, *bounds, scaling)


def parts(runs, paths):
    """The queries and the keys of each run, as slices."""
    for (start, stop), (first, last) in zip(itertools.pairwise(runs.tolist()), itertools.pairwise(paths.tolist()), strict=True):
        yield slice(start, stop), slice(first, last)


def probabilities(query, key, scaling):
    """(heads, queries, keys). Query i of q, among k keys, sees the keys up to k − q + i: the mask is aligned to the lower right."""
    q, k = query.transpose(0, 1), key.transpose(0, 1).repeat_interleave(query.shape[1] // key.shape[1], 0)
    later = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).triu(k.shape[1] - q.shape[1] + 1)
    return (q @ k.transpose(1, 2) * scaling).masked_fill(later, -torch.inf).softmax(-1)


@torch.library.custom_op("emulated::varlen", mutates_args=())
def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    runs: torch.Tensor,
    paths: torch.Tensor,
    longest_run: int,
    longest_path: int,
    scaling: float,
) -> torch.Tensor:
    assert runs.dtype == paths.dtype == torch.int32 and len(runs) == len(paths)
    assert runs[0] == paths[0] == 0 and runs[-1] == len(query) and paths[-1] == len(key)
    assert runs.diff().min() > 0 and runs.diff().max() <= longest_run and paths.diff().max() <= longest_path
    attended = query.new_empty(*query.shape[:2], value.shape[-1])
    for of, to in parts(runs, paths):
        v = value[to].transpose(0, 1).repeat_interleave(query.shape[1] // key.shape[1], 0)
        attended[of] = (probabilities(query[of], key[to], scaling) @ v).transpose(0, 1)
    return attended


@_varlen.register_fake
def _(query, key, value, runs, paths, longest_run, longest_path, scaling):
    return query.new_empty(*query.shape[:2], value.shape[-1])


@torch.library.custom_op("emulated::varlen_backward", mutates_args=())
def _varlen_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    runs: torch.Tensor,
    paths: torch.Tensor,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    by_query, by_key, by_value = (torch.empty_like(tensor) for tensor in (query, key, value))
    groups, repeat = key.shape[1], query.shape[1] // key.shape[1]
    for of, to in parts(runs, paths):
        k, v = (tensor[to].transpose(0, 1).repeat_interleave(repeat, 0) for tensor in (key, value))
        probs, g = probabilities(query[of], key[to], scaling), gradient[of].transpose(0, 1)
        by_probs = g @ v.transpose(1, 2)
        by_scores = probs * (by_probs - (probs * by_probs).sum(-1, keepdim=True)) * scaling
        by_query[of] = (by_scores @ k).transpose(0, 1)
        by_key[to] = (by_scores.transpose(1, 2) @ query[of].transpose(0, 1)).unflatten(0, (groups, repeat)).sum(1).transpose(0, 1)
        by_value[to] = (probs.transpose(1, 2) @ g).unflatten(0, (groups, repeat)).sum(1).transpose(0, 1)
    return by_query, by_key, by_value


@_varlen_backward.register_fake
def _(gradient, query, key, value, *others):
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _save(ctx, inputs, output):
    *tensors, _, _, ctx.scaling = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, gradient):
    return (*_varlen_backward(gradient, *ctx.saved_tensors, ctx.scaling), None, None, None, None, None)


_varlen.register_autograd(_backward, setup_context=_save)
