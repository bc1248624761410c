"""Which kernel computes the attention of packs on a device, in a precision."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import torch

FLEX_BLOCK = 128
"""FlexAttention's block size: packs are filled up to a multiple of it."""


@dataclass(frozen=True)
class Kernel:
    """What computes the attention of packs.

    Attributes:
        name: "cpu": our own blocks; "flash3", "flash2": the FlashAttention packages; "varlen": torch's own variable-length call;
            "flex": FlexAttention.
        device: where it runs.
    """

    name: Literal["cpu", "flash3", "flash2", "varlen", "flex"]
    device: torch.device

    @property
    def multiple(self) -> int:
        """What the length of a pack must be a multiple of."""
        return FLEX_BLOCK if self.name == "flex" else 1


@functools.cache
def kernel_for(device: torch.device, dtype: torch.dtype, head_size: int) -> Kernel:
    """The fastest kernel that is there for heads of `head_size` in `dtype`."""
    if device.type == "cpu":
        return Kernel("cpu", device)
    if dtype in (torch.bfloat16, torch.float16) and torch.cuda.get_device_capability(device) >= (8, 0) and head_size <= 256:
        return Kernel("varlen", device)
    return Kernel("flex", device)
