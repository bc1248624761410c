"""Which kernel computes the attention of packs on a device, in a precision."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import torch

from tutelage.model.attention.varlen import Varlen, flash2, flash3, has_flash2, has_flash3, torchs_own

FLEX_BLOCK = 128
"""FlexAttention's block size: packs are filled up to a multiple of it."""

LABELS = {
    "cpu": "blocks of queries on the CPU",
    "flash3": "FlashAttention 3",
    "flash2": "FlashAttention 2",
    "varlen": "torch's varlen_attn",
    "flex": "FlexAttention",
}

OPERATIONS = frozenset(
    {
        "tutelage::packed_attention",
        "flash_attn_3::_flash_attn_forward",
        "flash_attn::_flash_attn_varlen_forward",
        "torch_attn::_varlen_attn",
        "flex_attention",
        "aten::_scaled_dot_product_cudnn_attention",
        "aten::_scaled_dot_product_flash_attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_efficient_attention",
    }
)
"""The forward operations of all kernels, by name."""


@dataclass(frozen=True)
class Kernel:
    """What computes the attention of packs.

    Attributes:
        name: "cpu": our own blocks; "flash3", "flash2": the FlashAttention packages; "varlen": torch's own variable-length call;
            "flex": FlexAttention.
        device: the device that it runs on.
        varlen: the variable-length call; None for the kernels that have none, "cpu" and "flex".
    """

    name: Literal["cpu", "flash3", "flash2", "varlen", "flex"]
    device: torch.device
    varlen: Varlen | None = None

    def __str__(self) -> str:
        return LABELS[self.name]

    @property
    def multiple(self) -> int:
        """What the length of a pack must be a multiple of."""
        return FLEX_BLOCK if self.name == "flex" else 1


def kernel_for(device: torch.device, dtype: torch.dtype, head_size: int) -> Kernel:
    """The fastest kernel that is installed and takes heads of `head_size` in `dtype`, forward and backward.

    Raises:
        InputError: the package that would serve lacks an argument that is needed, or cannot be imported.
    """
    return _kernel_for(device, dtype, head_size, torch.are_deterministic_algorithms_enabled())


@functools.cache
def _kernel_for(device: torch.device, dtype: torch.dtype, head_size: int, deterministic: bool) -> Kernel:
    if device.type == "cpu":
        return Kernel("cpu", device)
    is_half = dtype in (torch.bfloat16, torch.float16)
    if is_half and head_size % 8 == 0 and head_size <= 256:
        capability = torch.cuda.get_device_capability(device)
        # FlashAttention 3 is for Hopper alone; its deterministic backward pass takes heads of at most 192
        if capability == (9, 0) and has_flash3() and not (deterministic and head_size > 192):
            return Kernel("flash3", device, flash3())
        if capability >= (8, 0) and has_flash2():
            return Kernel("flash2", device, flash2())
        # torch refuses the backward pass of larger heads on other cards than A100, H100 and B200
        if capability >= (8, 0) and (head_size <= 192 or capability in ((8, 0), (9, 0), (10, 0))):
            return Kernel("varlen", device, torchs_own())
    return Kernel("flex", device)
