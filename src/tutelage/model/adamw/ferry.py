"""Moments that live in the host's memory and visit the device, piece by piece, beside what the device computes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from tutelage.model.adamw.plain import Part

ROOMS = 2
"""Pieces that are on their way, or are updated, at a time."""


class _Room:
    """Memory of the device for the moments of a piece.

    Attributes:
        updated, empty: on CUDA, events of the last piece in the room: it was updated, its moments are on the host again.
    """

    def __init__(self) -> None:
        self.kept: torch.Tensor | None = None
        self.updated: torch.cuda.Event | None = None
        self.empty: torch.cuda.Event | None = None

    def take(self, moments: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        """Tensors of the device, like moments of the host; the room grows to its largest piece."""
        sizes = [-(-moment.nbytes // 16) * 16 for moment in moments]
        if self.kept is None or self.kept.numel() < sum(sizes):
            self.kept = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
        near, start = [], 0
        for moment, size in zip(moments, sizes, strict=True):
            near.append(self.kept[start : start + moment.nbytes].view(moment.dtype))
            start += size
        return near


class Ferry:
    """Brings moments of weights to the device and back.

    On CUDA there are three streams: one that brings, one that updates, one that takes back. What computes goes on meanwhile; it waits
    only before more than `ROOMS` updates are under way, since each of them holds a gradient. On a CPU all is done in turn.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.on_cuda = device, device.type == "cuda"
        self._rooms = [_Room() for _ in range(ROOMS)]
        self._next = 0
        self._streams: list[torch.cuda.Stream] = []

    @contextlib.contextmanager
    def beside(self, gradient: torch.Tensor) -> Iterator[None]:
        """Within it a weight is updated beside what computes, once its gradient is there."""
        if not self.on_cuda:
            yield
            return
        if not self._streams:
            self._streams = [torch.cuda.Stream(self.device) for _ in range(3)]
        computing, updating = torch.cuda.current_stream(self.device), self._streams[1]
        ahead = self._rooms[self._next].updated
        if ahead is not None:
            computing.wait_event(ahead)
        updating.wait_stream(computing)
        gradient.record_stream(updating)
        with torch.cuda.stream(updating):
            yield

    def carry(self, piece: Part, rule: Callable[[Part], None]) -> None:
        """Update a piece whose moments are on the host. Call it within `beside`."""
        far = [moment for moment in (piece.first, piece.second, piece.first_scale, piece.second_scale) if moment is not None]
        room = self._rooms[self._next]
        self._next = (self._next + 1) % ROOMS
        if not self.on_cuda:
            near = room.take(far, self.device)
            _copy(far, near)
            rule(_with(piece, near))
            _copy(near, far)
            return
        bringing, updating, taking = self._streams
        with torch.cuda.stream(bringing):  # the room is its own: it grows, and is filled, in this stream's order
            if room.empty is not None:
                bringing.wait_event(room.empty)
            near = room.take(far, self.device)
            _copy(far, near)
            there = bringing.record_event()
        updating.wait_event(there)
        rule(_with(piece, near))
        room.updated = updating.record_event()
        with torch.cuda.stream(taking):
            taking.wait_event(room.updated)
            _copy(near, far)
            room.empty = taking.record_event()

    def settle(self) -> None:
        """Wait until every piece is updated, and its moments are on the host."""
        for stream in self._streams:
            stream.synchronize()


def _copy(sources: list[torch.Tensor], targets: list[torch.Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source, non_blocking=True)


def _with(piece: Part, near: list[torch.Tensor]) -> Part:
    """The piece with moments of the device."""
    first, second, *scales = near
    first_scale, second_scale = scales or (None, None)
    return replace(piece, first=first, second=second, first_scale=first_scale, second_scale=second_scale)
