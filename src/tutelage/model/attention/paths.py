"""Runs and paths of a pack: attention in a trie as a variable-length call that has more keys than queries.

A *run* is the part of a row that no row before it has: tokens of which each is the child of the one before. The *path* of a run is the
full row: the ancestors of the run, then the run. The tokens of a run attend to their path, causally, and to nothing else.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Paths:
    """The runs and the paths of a pack, on the CPU.

    Attributes:
        runs: (runs + 1,) int32, the first token of each run, and the number of tokens.
        paths: (runs + 1,) int32, where the keys of each path begin, and the number of keys.
        longest_run, longest_path: the most tokens of a run, and of a path.
        keys: (keys,) int64, the tokens of all paths, ancestors first; None where each run is its path.
    """

    runs: torch.Tensor
    paths: torch.Tensor
    longest_run: int
    longest_path: int
    keys: torch.Tensor | None

    @staticmethod
    def of(ends: torch.Tensor) -> Paths:
        """Of a pack with subtree ends `ends` (tokens,) int64, on the CPU."""
        values = ends.numpy()
        starts = starts_of(values)
        runs, lengths = np.append(starts, len(values)), path_lengths(values, starts)
        paths = np.append(0, lengths.cumsum())
        return Paths(
            torch.from_numpy(runs.astype(np.int32)),
            torch.from_numpy(paths.astype(np.int32)),
            int(np.diff(runs).max()),
            int(lengths.max()),
            torch.from_numpy(_keys(runs, paths)) if paths[-1] > len(values) else None,
        )


def starts_of(ends: np.ndarray) -> np.ndarray:
    """The first token of each run: a token that is not the child of the one before it. `ends` is (tokens,) int64."""
    return np.append(0, np.flatnonzero(ends[:-1] == np.arange(1, len(ends))) + 1)


def depths_of(ends: np.ndarray) -> np.ndarray:
    """How many ancestors each token has: the tokens before it, without those whose subtree has ended."""
    closed = np.bincount(ends, minlength=len(ends) + 1)[: len(ends)].cumsum()
    return np.arange(len(ends)) - closed


def path_lengths(ends: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Tokens of each run's path: its last token and the ancestors of that."""
    return depths_of(ends)[np.append(starts[1:], len(ends)) - 1] + 1


def _keys(runs: np.ndarray, paths: np.ndarray) -> np.ndarray:
    """The tokens of all paths, (keys,) int64. A path begins as the one before it does, down to the parent of its run."""
    keys = np.empty(paths[-1], dtype=np.int64)
    path = np.empty(np.diff(paths).max(), dtype=np.int64)
    for (start, stop), (first, last) in zip(itertools.pairwise(runs), itertools.pairwise(paths), strict=True):
        length = last - first
        path[length - (stop - start) : length] = np.arange(start, stop)
        keys[first:last] = path[:length]
    return keys


@torch.library.custom_op("tutelage::gather_keys", mutates_args=())
def gather(key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """key and value (tokens, key heads, size), of the tokens `keys`: (keys, key heads, size).

    A token's gradient is the sum over its copies, in float32 at least, rounded once.
    """
    return key.index_select(0, keys), value.index_select(0, keys)


@gather.register_fake
def _(key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return key.new_empty(keys.shape[0], *key.shape[1:]), value.new_empty(keys.shape[0], *value.shape[1:])


@torch.library.custom_op("tutelage::sum_copies", mutates_args=())
def _sum_copies(by_key: torch.Tensor, by_value: torch.Tensor, keys: torch.Tensor, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The transpose of `gather`: (keys, key heads, size) → (tokens, key heads, size).

    `index_add_` adds with atomic operations on a GPU, so its order may change from run to run; it is the same each time
    where torch is asked for deterministic algorithms, and on a CPU.
    """
    return _sum_copy(by_key, keys, tokens), _sum_copy(by_value, keys, tokens)


def _sum_copy(gradient: torch.Tensor, keys: torch.Tensor, tokens: int) -> torch.Tensor:
    wide = torch.promote_types(gradient.dtype, torch.float32)
    total = torch.zeros(tokens, *gradient.shape[1:], dtype=wide, device=gradient.device)
    return total.index_add_(0, keys, gradient.to(wide)).to(gradient.dtype)


@_sum_copies.register_fake
def _(by_key: torch.Tensor, by_value: torch.Tensor, keys: torch.Tensor, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    return by_key.new_empty(tokens, *by_key.shape[1:]), by_value.new_empty(tokens, *by_value.shape[1:])


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    key, _, keys = inputs
    ctx.save_for_backward(keys)
    ctx.tokens = key.shape[0]


def _backward(ctx: Any, by_key: torch.Tensor, by_value: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return (*_sum_copies(by_key, by_value, *ctx.saved_tensors, ctx.tokens), None)


gather.register_autograd(_backward, setup_context=_save_for_backward)
