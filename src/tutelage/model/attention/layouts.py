"""The layouts of a pack: its mask in the form that each kernel reads."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from tutelage.model.attention.cpu import CpuLayout, starts_of
from tutelage.model.attention.kernel import Kernel

class Layout(Protocol):
    """The mask of a pack, in the form that a back end reads."""

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
        """query (1, heads, tokens, size), key and value (1, key heads, tokens, size) → (1, tokens, heads, size).

        The number of heads is a multiple of the number of key heads.
        """
        ...


def layout_of(ends: torch.Tensor, kernel: Kernel) -> Layout:
    """The layout of a pack for a kernel, on its device. It is made on the CPU, and copied without blocking.

    Args:
        ends: (tokens,) int64, where each token's subtree ends; on the CPU.
    """
    if kernel.name == "cpu":
        return CpuLayout.of(ends)
    starts = starts_of(ends)
    if kernel.name != "flex" and not any(bool((ends[:start] > start).any()) for start in starts):
        bounds = torch.tensor([*starts, len(ends)], dtype=torch.int32)
        return RowsLayout(bounds.to(kernel.device), int(bounds.diff().max()), _flash_attention())
    return FlexLayout.of(ends.to(kernel.device))


@dataclass(frozen=True)
class RowsLayout:
    """For CUDA where rows share nothing: rows that lie end to end, each with causal attention of its own.

    Attributes:
        bounds: (rows + 1,) int32, where each row starts, and where the last one ends.
        longest: tokens of the longest row.
        flash: FlashAttention's kernel; None for torch's own.
    """

    bounds: torch.Tensor
    longest: int
    flash: Any = None

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        rows = (self.bounds, self.bounds, self.longest, self.longest)
        if self.flash is not None:
            attended: torch.Tensor = self.flash(q, k, v, *rows, softmax_scale=scaling, causal=True)
            return attended[None]
        from torch.nn.attention.varlen import varlen_attn

        # a window of (-1, 0) is causal attention
        attended = varlen_attn(q, k, v, *rows, scale=scaling, window_size=(-1, 0), enable_gqa=q.shape[1] != k.shape[1])  # type: ignore[assignment]
        return attended[None]


@dataclass(frozen=True)
class FlexLayout:
    """For CUDA where prefixes are shared: FlexAttention's block mask."""

    mask: Any

    @staticmethod
    def of(ends: torch.Tensor) -> FlexLayout:
        """The layout of a pack with subtree ends `ends` (tokens,), on the device."""
        from torch.nn.attention.flex_attention import create_block_mask

        def visible(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return (key <= query) & (query < ends[key])

        return FlexLayout(create_block_mask(visible, None, None, len(ends), len(ends), device=str(ends.device)))

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
        grouped = query.shape[1] != key.shape[1]
        attended = _compiled_flex()(query, key, value, block_mask=self.mask, scale=scaling, enable_gqa=grouped)
        return attended.transpose(1, 2)


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


@functools.cache
def _flash_attention() -> Any:
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        return None
    return flash_attn_varlen_func


@functools.cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)
