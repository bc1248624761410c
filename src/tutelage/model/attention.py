"""Attention within a pack: token q attends to token k iff ``k <= q < ends[k]``. One function, with a layout for each back end.

The function is registered with transformers under `NAME`. A call that carries a layout is packed. Any other call (generation with
its cache, padded rows) goes to transformers' own SDPA function.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from tutelage.model.attention_cpu import CpuLayout, starts_of

NAME = "tutelage"
CUDA_MULTIPLE = 128
"""FlexAttention's block size: packs are filled up to a multiple of it, so that few shapes are compiled."""


class UnsupportedAttention(ValueError):
    """The model's attention does more than a causal softmax over all earlier tokens, so it cannot be packed exactly."""


class Layout(Protocol):
    """The mask of a pack, in the form that a back end reads."""

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
        """query (1, heads, tokens, size), key and value (1, key heads, tokens, size) → (1, tokens, heads, size).

        The number of heads is a multiple of the number of key heads.
        """
        ...


def layout(ends: torch.Tensor, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Layout:
    """The layout of a pack for the back end of `device` that takes `dtype`.

    Args:
        ends: (tokens,) int64, where each token's subtree ends; still on the CPU.
    """
    if device.type == "cpu":
        return CpuLayout.of(ends)
    starts = starts_of(ends)
    if has_row_kernels(device, dtype) and not any(bool((ends[:start] > start).any()) for start in starts):
        bounds = torch.tensor([*starts, len(ends)], dtype=torch.int32)
        return RowsLayout(bounds.to(device), int(bounds.diff().max()), _flash_attention())
    return FlexLayout.of(ends.to(device))


def has_row_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether kernels for rows of different lengths run here: they need half precision and a GPU since Ampere."""
    return dtype in (torch.bfloat16, torch.float16) and torch.cuda.get_device_capability(device) >= (8, 0)


def multiple(device: torch.device) -> int:
    """What a pack's length should be a multiple of on a device, so that its kernels are compiled for few shapes."""
    return CUDA_MULTIPLE if device.type == "cuda" else 1


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


def register() -> None:
    """Make the attention known to transformers under `NAME`; generation with it makes its masks as SDPA does."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function: shapes as in `Layout.attend`.

    Returns:
        ((1, tokens, heads, size), None).

    Raises:
        UnsupportedAttention: the model asks for more than causal attention: a sliding window, soft-capping, sinks, dropout.
    """
    if layout is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others
        )  # fmt: skip
    asked = [name for name in ("sliding_window", "softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if asked or dropout:
        raise UnsupportedAttention(" and ".join(asked) or "attention dropout")
    return layout.attend(query, key, value, scaling if scaling is not None else query.shape[-1] ** -0.5), None


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
