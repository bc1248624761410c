"""Runs and paths of a pack: attention in a trie as a variable-length call that has more keys than queries.

A *run* is the part of a row that no row before it has: tokens of which each is the child of the one before. The *path* of a run is the
full row: the ancestors of the run, then the run. The tokens of a run attend to their path, causally, and to nothing else.
"""

from __future__ import annotations

import numpy as np
import torch


def starts_of(ends: np.ndarray) -> np.ndarray:
    """The first token of each run: a token that is not the child of the one before it. `ends` is (tokens,) int64."""
    return np.concatenate([[0], np.flatnonzero(ends[:-1] == np.arange(1, len(ends))) + 1])


def depths_of(ends: np.ndarray) -> np.ndarray:
    """How many ancestors each token has: those before it, without those whose subtree has ended."""
    closed = np.bincount(ends, minlength=len(ends) + 1)[: len(ends)].cumsum()
    return np.arange(len(ends)) - closed


def path_lengths(ends: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Tokens of each run's path: its last token and the ancestors of that."""
    return depths_of(ends)[np.append(starts[1:], len(ends)) - 1] + 1


def gathered_keys(ends: torch.Tensor) -> int:
    """How many keys a pack's attention gathers: the tokens of all paths; 0 where no run has ancestors.

    Args:
        ends: (tokens,) int64, where each token's subtree ends; on the CPU.
    """
    values = ends.numpy()
    total = int(path_lengths(values, starts_of(values)).sum())
    return total if total > len(values) else 0
