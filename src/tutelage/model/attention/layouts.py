"""The layouts of a pack: its mask in the form that each kernel reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from tutelage.machines import to_device
from tutelage.model.attention.cpu import CpuLayout
from tutelage.model.attention.flex import FlexLayout
from tutelage.model.attention.kernel import Kernel
from tutelage.model.attention.paths import Paths, gather
from tutelage.model.attention.varlen import Varlen


class Layout(Protocol):
    """The mask of a pack, in the form that a back end reads."""

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
        """query (1, heads, tokens, size), key and value (1, key heads, tokens, size) → (1, tokens, heads, size).

        The number of heads is a multiple of the number of key heads. (Layouts drop the first dimension with `squeeze`: the
        gradient of an index would be copied into a tensor of zeros.)
        """
        ...


def layout_of(ends: torch.Tensor, kernel: Kernel) -> Layout:
    """The layout of a pack for a kernel, on its device. It is made on the CPU, and copied without blocking.

    Args:
        ends: (tokens,) int64, where each token's subtree ends; on the CPU.
    """
    if kernel.name == "cpu":
        return CpuLayout.of(ends)
    if kernel.varlen is None:
        return FlexLayout.of(ends, kernel.device)
    paths = Paths.of(ends)
    if paths.keys is None and len(ends) == paths.longest_run * (len(paths.runs) - 1):
        return EqualRowsLayout(paths.longest_run)
    keys = None if paths.keys is None else to_device(paths.keys, kernel.device)
    runs, bounds = to_device(paths.runs, kernel.device), to_device(paths.paths, kernel.device)
    # an odd and an even number: `torch.compile` takes numbers that are equal at first for one number, and 1 for a constant
    longest_run, longest_path = max(3, paths.longest_run | 1), paths.longest_path + paths.longest_path % 2
    return PathsLayout(runs, bounds, longest_run, longest_path, keys, kernel.varlen)


@dataclass(frozen=True)
class PathsLayout:
    """For kernels with a variable-length call: each run of a pack attends to its path (see `Paths`).

    Attributes:
        runs, paths: (runs + 1,) int32, where the queries and the keys of each run begin, and where the last ones end.
        longest_run, longest_path: the most tokens of a run, and of a path, or one or two more.
        keys: (keys,) int64, the tokens of the paths; None where each run is its path.
        varlen: the kernel's call.
    """

    runs: torch.Tensor
    paths: torch.Tensor
    longest_run: int
    longest_path: int
    keys: torch.Tensor | None
    varlen: Varlen

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
        q, k, v = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
        if self.keys is not None:
            k, v = gather(k, v, self.keys)
        return self.varlen(q, k, v, (self.runs, self.paths, self.longest_run, self.longest_path), scaling).unsqueeze(0)


@dataclass(frozen=True)
class EqualRowsLayout:
    """For CUDA in half precision, where rows of one length share nothing: a batch of rows for SDPA, whose kernels are faster.

    Attributes:
        length: tokens of each row.
    """

    length: int

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
        # (1, heads, tokens, size) → (rows, heads, length, size), a view
        q, k, v = (tensor.squeeze(0).unflatten(1, (-1, self.length)).transpose(0, 1) for tensor in (query, key, value))
        attended = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        return attended.transpose(1, 2).flatten(0, 1).unsqueeze(0)


@dataclass(frozen=True)
class DenseLayout:
    """For small packs on any device and in any precision: torch's own SDPA with the mask (tokens, tokens) bool."""

    mask: torch.Tensor

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
        attended = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=self.mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )
        return attended.transpose(1, 2)


def dense_mask(ends: torch.Tensor) -> torch.Tensor:
    """(tokens, tokens) bool, True where query (row) may attend to key (column): the definition, for tests and small packs."""
    index = torch.arange(len(ends), device=ends.device)
    return (index[None, :] <= index[:, None]) & (index[:, None] < ends[None, :])
