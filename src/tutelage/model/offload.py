"""What the backward pass needs waits in the host's memory; copies have a stream of their own, so that computing goes on beside them.

With activation checkpointing "full" these are the inputs of layers, and nothing else of them.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

SMALL = 1 << 16
"""Bytes of a tensor that is not worth a copy, and stays on its device."""
IN_FLIGHT = 2
"""Tensors that wait on the device until their copies are made, and tensors that come back before they are wanted."""


@dataclass(eq=False)
class Left:
    """A tensor that was left to the host.

    Attributes:
        index: how many were left before it.
        host: its copy there. back: its copy on the device, from when it is asked for.
        users: how often it will still be fetched. ready: when the latest copy is made.
    """

    index: int
    host: Any
    device: torch.device
    users: int = 1
    back: torch.Tensor | None = None
    ready: torch.cuda.Event | None = None


class Host:
    """The host's memory: pinned, where a GPU copies."""

    def put(self, tensor: torch.Tensor) -> Any:
        there = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
        return there.copy_(tensor, non_blocking=tensor.is_cuda)

    def get(self, there: Any, made: torch.Tensor) -> None:
        """Fill a tensor with what was put there."""
        made.copy_(there, non_blocking=made.is_cuda)

    def like(self, there: Any, device: torch.device) -> torch.Tensor:
        """A tensor to be filled, on a device."""
        return torch.empty_like(there, device=device, pin_memory=False)


class Offload:
    """Leaves what one forward pass keeps to the host, and fetches it in the backward pass, in the opposite order.

    A tensor that is kept several times is copied once. The device holds `IN_FLIGHT` tensors whose copies are under way, and as many
    that come back.

    Args:
        weights: tensors that stay on the device anyway.
    """

    def __init__(
        self, device: torch.device, weights: Iterable[torch.Tensor], host: Host | None = None, small: int = SMALL
    ) -> None:
        self.weights = {weight.untyped_storage()._cdata for weight in weights}
        self.host, self.small = host or Host(), small
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.left: list[Left | None] = []
        self.flying: deque[tuple[torch.Tensor, Left]] = deque()

    def hooks(self) -> contextlib.AbstractContextManager[Any]:
        """Within it, what a forward pass keeps is left to the host."""
        return torch.autograd.graph.saved_tensors_hooks(self.leave, self.fetch)

    def leave(self, tensor: torch.Tensor) -> torch.Tensor | Left:
        if (
            tensor.untyped_storage()._cdata in self.weights
            or tensor.nbytes < self.small
            or isinstance(tensor, torch.nn.Parameter)
        ):
            return tensor
        for flying, left in self.flying:
            if _is_same(flying, tensor):
                left.users += 1
                return left
        while len(self.flying) >= IN_FLIGHT:
            self._landed()
        with self._copying(tensor.device):
            left = Left(len(self.left), self.host.put(tensor), tensor.device)
            left.ready = self._event()
        self.left.append(left)
        self.flying.append((tensor, left))
        return left

    def fetch(self, left: torch.Tensor | Left) -> torch.Tensor:
        if isinstance(left, torch.Tensor):
            return left
        while self.flying:
            self._landed()
        for other in reversed(self.left[max(0, left.index - IN_FLIGHT) : left.index + 1]):
            if other is not None and other.back is None:
                self._bring(other)
        back = left.back
        assert back is not None
        self._wait_for(left)
        left.users -= 1
        if not left.users:
            self.left[left.index], left.back, left.host = None, None, None
        return back

    def reorder(self, lefts: list[Left]) -> None:
        """These tensors, which are all that were left, will be fetched in the opposite of this order."""
        self.left = list(lefts)
        for index, left in enumerate(lefts):
            left.index = index

    def _bring(self, left: Left) -> None:
        # the memory belongs to the stream that computes, which is done with what lay there before
        made = self.host.like(left.host, left.device)
        with self._copying(left.device):
            self.host.get(left.host, made)
            if self.stream is not None:
                made.record_stream(self.stream)
            left.back, left.ready = made, self._event()

    def _landed(self) -> None:
        """The oldest tensor under way may go: what is computed next waits until it is copied."""
        _, left = self.flying.popleft()
        self._wait_for(left)

    def _wait_for(self, left: Left) -> None:
        if left.ready is not None:
            torch.cuda.current_stream(left.device).wait_event(left.ready)

    def _event(self) -> torch.cuda.Event | None:
        return None if self.stream is None else self.stream.record_event()

    def _copying(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """Within it, work goes to the stream of copies, behind all that is computed so far."""
        if self.stream is None:
            return contextlib.nullcontext()
        self.stream.wait_stream(torch.cuda.current_stream(device))
        return torch.cuda.stream(self.stream)


def _is_same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are the same numbers in the same memory."""
    return a is b or (
        a.untyped_storage()._cdata == b.untyped_storage()._cdata and a._version == b._version
        and (a.storage_offset(), a.shape, a.stride(), a.dtype) == (b.storage_offset(), b.shape, b.stride(), b.dtype)
    )  # fmt: skip
