"""AdamW's update in plain torch, chunk by chunk: what computes on a CPU, and what the Triton kernel is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tutelage.model.adamw import blocks, rounding

CHUNK = 2**17
"""Elements that are updated at a time: their float32 copies stay in a core's cache."""


@dataclass(frozen=True)
class Part:
    """What this rank holds of a weight, its gradient and its moments, flat; scales are those of 8-bit moments.

    Attributes:
        index: which of its group's parameters it is.
        start: index of its first element in the full weight.
    """

    weight: torch.Tensor
    gradient: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    first_scale: torch.Tensor | None
    second_scale: torch.Tensor | None
    index: int
    start: int

    @property
    def width(self) -> int:
        """Numbers in a block of 8-bit moments; 0 where there are none."""
        return 0 if self.first_scale is None else len(self.first) // len(self.first_scale)

    def chunk(self, begin: int, end: int) -> Part:
        """The elements from `begin` to `end`, both at the border of a block."""

        def cut(scale: torch.Tensor | None) -> torch.Tensor | None:
            return scale if scale is None else scale[begin // self.width : end // self.width]

        weight, gradient, first, second = (flat[begin:end] for flat in (self.weight, self.gradient, self.first, self.second))
        scales = cut(self.first_scale), cut(self.second_scale)
        return Part(weight, gradient, first, second, *scales, self.index, self.start + begin)


@dataclass(frozen=True)
class Rates:
    """What an update is computed with, for the parameters of a group: ``w ← decay · w − size · m / (√v + eps)``.

    Attributes:
        gain1, gain2: the share of the gradient, and of its square, that goes into the moments (1 − β).
        decay: what weight decay leaves of a weight.
        sizes, eps: of each parameter, corrected for moments that began at zero (float32).
        keys: of each parameter's random bits (parameters × 2, int32).
    """

    gain1: float
    gain2: float
    decay: float
    sizes: torch.Tensor
    eps: torch.Tensor
    keys: torch.Tensor


class Rooms:
    """Room for what a chunk needs beside weights and moments."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.weight, self.gradient, self.first, self.second, self.root = torch.empty(5, size, device=device)
        self.hashed, self.spare = torch.empty(2, size, dtype=torch.int32, device=device)
        self.indices = torch.arange(size, dtype=torch.int32, device=device)


def update(parts: Sequence[Part], rates: Rates) -> None:
    """One step of some of a group's parameters; weights and moments change in place."""
    largest = max(part.weight.numel() for part in parts)
    rooms = Rooms(min(CHUNK, largest), parts[0].weight.device)
    for part in parts:
        for begin in range(0, part.weight.numel(), CHUNK):
            _update(part.chunk(begin, min(begin + CHUNK, part.weight.numel())), rates, rooms)


def _update(part: Part, rates: Rates, rooms: Rooms) -> None:
    count = len(part.weight)
    gradient = rooms.gradient[:count].copy_(part.gradient)
    weight = _read(part.weight, None, True, rooms.weight, rooms)
    first = _read(part.first, part.first_scale, True, rooms.first, rooms)
    second = _read(part.second, part.second_scale, False, rooms.second, rooms)
    first.lerp_(gradient, rates.gain1)
    second.lerp_(gradient.square_(), rates.gain2)
    root = torch.sqrt(second, out=rooms.root[:count]).add_(rates.eps[part.index])
    if rates.decay != 1.0:
        weight.mul_(rates.decay)
    weight.sub_(torch.div(first, root, out=gradient).mul_(rates.sizes[part.index]))
    hashed = rooms.hashed[:count]
    if torch.bfloat16 in (part.weight.dtype, part.first.dtype):
        rounding.hashes(rooms.indices[:count], part.start, rates.keys[part.index], hashed, rooms.spare[:count])
    _write(part.weight, None, weight, 0, rooms)
    _write(part.first, part.first_scale, first, 1, rooms)
    _write(part.second, part.second_scale, second, 2, rooms)


def _read(stored: torch.Tensor, scale: torch.Tensor | None, sign: bool, room: torch.Tensor, rooms: Rooms) -> torch.Tensor:
    """The float32 values of what is stored: itself, or a copy."""
    if scale is not None:
        return blocks.decode(stored, scale, sign, room[: len(stored)], rooms.spare[: len(stored)])
    return stored if stored.dtype == torch.float32 else room[: len(stored)].copy_(stored)


def _write(stored: torch.Tensor, scale: torch.Tensor | None, values: torch.Tensor, index: int, rooms: Rooms) -> None:
    """Store values (weights, first and second moments are 0, 1 and 2), unless they are what is stored."""
    if scale is not None:
        blocks.encode(values, stored, scale, index == 1, rooms.spare[: len(values)])
    elif stored.dtype == torch.bfloat16:
        count = len(stored)
        rounding.round_into(stored, values, rounding.part(rooms.hashed[:count], index, rooms.spare[:count]))
