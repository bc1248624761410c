"""Moments in blocks of 8-bit numbers: the largest magnitude of a block in float32, and for each number the index of its share.

A block is a part of a row of its weight: 256 numbers, or the largest power of two that divides the row. So no block is shared by
ranks, which hold rows, and the moments of several ranks are those of one process.

The shares are the dynamic quantiles of Dettmers et al. 2022 (8-bit Optimizers via Block-wise Quantization): seven decades, each
with twice as many evenly spaced numbers as the one below, and 0 and 1. First moments have signs, second ones do not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch

BLOCK, NARROWEST = 256, 16
"""Numbers of the widest and of the narrowest block."""
SMALL = 4096
"""Weights of fewer elements keep float32 moments."""
DECADES = 7
TINIEST = 2.0**-126
"""The least positive float32 of full precision."""


def width_of(shape: Sequence[int]) -> int:
    """Numbers in a block of the moments of a weight of this shape; 0 where they stay float32.

    They do in vectors, in small weights, and where rows do not divide into blocks.
    """
    if len(shape) < 2 or math.prod(shape) < SMALL:
        return 0
    width = math.gcd(math.prod(shape[1:]), BLOCK)
    return width if width >= NARROWEST else 0


@functools.cache
def shares(sign: bool) -> list[float]:
    """The 256 shares of a block's largest magnitude that a code can mean, in ascending order."""
    found = [0.0, 1.0]
    for decade in range(DECADES):
        count = 2 ** (decade if sign else decade + 1)
        magnitudes = [10.0 ** (decade + 1 - DECADES) * (0.1 + 0.9 * (index + 0.5) / count) for index in range(count)]
        found += [*magnitudes, *(-magnitude for magnitude in magnitudes if sign)]
    return sorted(found)


@functools.cache
def tables(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """What encodes and decodes, for signed codes in row 0 and for unsigned ones in row 1.

    A share is decoded by one look. It is encoded by two: the upper 16 bits of its float32 leave one boundary at most, so they
    give a code, or the one below it. An unsigned share above 0 never becomes 0, for an update divides by its root.

    Returns:
        Shares and boundaries (float32, 2 × 512): each code's share, then the share from which on the next code is nearer.
        Codes (uint8, 2 × 65,536) by the upper 16 bits of a share: of the least number that has those.
    """
    numbers, codes = [], []
    upper = torch.arange(65536, dtype=torch.int32) << 16
    least = torch.where(upper < 0, upper | 0xFFFF, upper).view(torch.float32).nan_to_num(0.0)
    for sign in (True, False):
        share = torch.tensor(shares(sign), dtype=torch.float64)
        boundary = (share[:-1] + share[1:]) / 2
        if not sign:
            boundary[0] = TINIEST
        boundary = torch.cat([boundary, torch.tensor([float("inf")])]).float()
        numbers.append(torch.cat([share.float(), boundary]))
        codes.append(torch.searchsorted(boundary, least, right=True).clamp(max=255).to(torch.uint8))
    return torch.stack(numbers).to(device), torch.stack(codes).to(device)


def decode(codes: torch.Tensor, scales: torch.Tensor, sign: bool, out: torch.Tensor, spare: torch.Tensor) -> torch.Tensor:
    """The numbers that codes stand for, in `out` (float32).

    Args:
        spare: as long as `out`, int32.
    """
    numbers, _ = tables(codes.device)
    torch.index_select(numbers[0 if sign else 1], 0, spare.copy_(codes), out=out)
    out.view(len(scales), -1).mul_(scales[:, None])
    return out


def encode(values: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, sign: bool, spare: torch.Tensor) -> None:
    """Write the codes nearest to `values` (float32, which are lost), and each block's largest magnitude."""
    numbers, guesses = (table[0 if sign else 1] for table in tables(values.device))
    blocked = values.view(len(scales), -1)
    torch.amax(torch.abs(blocked, out=spare.view(torch.float32).view_as(blocked)), 1, out=scales)
    blocked.div_(torch.where(scales > 0, scales, 1.0)[:, None])
    upper = torch.bitwise_right_shift(values.view(torch.int32), 16, out=spare).bitwise_and_(0xFFFF)
    guess = guesses.index_select(0, upper)
    boundary = numbers[256:].index_select(0, upper.copy_(guess))
    codes.copy_(guess.add_(values >= boundary))
