"""FlexAttention: packs on CUDA in float32, and in half precision where no variable-length kernel takes the heads."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tutelage.machines import to_device
from tutelage.model.attention.kernel import FLEX_BLOCK


@dataclass(frozen=True)
class FlexLayout:
    """FlexAttention's block mask of a pack.

    Attributes:
        mask: the `BlockMask`; a query block's key blocks are masked token by token, or fully visible.
        flex: `flex_attention`, compiled.
    """

    mask: Any
    flex: Callable[..., Any]

    @staticmethod
    def of(ends: torch.Tensor, device: torch.device, block: int = FLEX_BLOCK) -> FlexLayout:
        """The layout of a pack with subtree ends `ends` (tokens,), made on the CPU, copied to the device without blocking.

        The work, and the memory, is (tokens / block)². The number of tokens is a multiple of `block`.
        """
        from torch.nn.attention.flex_attention import BlockMask

        partial, full = visible_blocks(ends.numpy(), block)
        there = to_device(ends, device)

        def visible(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return (key <= query) & (query < there[key])

        lengths = (len(ends), len(ends))
        mask = BlockMask.from_kv_blocks(*_ordered(partial), *_ordered(full), block, visible, lengths)
        for name, value in vars(mask).items():
            if isinstance(value, torch.Tensor):
                setattr(mask, name, to_device(value, device))
        return FlexLayout(mask, _compiled())

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
        grouped = query.shape[1] != key.shape[1]
        attended: torch.Tensor = self.flex(query, key, value, block_mask=self.mask, scale=scaling, enable_gqa=grouped)
        return attended.transpose(1, 2)


def visible_blocks(ends: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """(query blocks, key blocks) bool, twice: where some tokens see some, and where all see all.

    A key block is visible where its largest end lies beyond the first query, fully where its smallest end lies beyond the last.
    """
    of_blocks = ends.reshape(-1, block)
    largest, smallest = of_blocks.max(1), of_blocks.min(1)
    index = np.arange(len(of_blocks))
    first, last = block * index[:, None], block * index[:, None] + block - 1
    full = (index[None] < index[:, None]) & (smallest[None] > last)
    return (index[None] <= index[:, None]) & (largest[None] > first) & ~full, full


def _ordered(blocks: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """How many key blocks each query block has, and their indices, in `BlockMask`'s form: (1, 1, blocks) and (1, 1, blocks, blocks)."""
    found = torch.from_numpy(blocks)[None, None]
    return found.sum(-1, dtype=torch.int32), torch.argsort(found.int(), dim=-1, descending=True, stable=True).int()


@functools.cache
def _compiled() -> Callable[..., Any]:
    """`flex_attention`, compiled once for all lengths. It is asked for when a layout is made, never in traced code."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)
