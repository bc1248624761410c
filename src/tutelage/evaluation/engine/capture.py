"""CUDA graphs of a step: what a step launches is recorded once and launched as one from then on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tutelage import console

Step = Callable[[], None]
"""Computes from tensors of fixed addresses into tensors of fixed addresses."""

_READS = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "equal",
    "is_nonzero",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
}
_COPIES = {"_to_copy", "copy_"}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}


class HostReads(TorchDispatchMode):
    """Notes the operations within it that make the host wait for the device, or copy between them: no graph can hold those.

    Attributes:
        found: their names.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        travels = name in _COPIES and len({each.device.type for each in (result, *args) if isinstance(each, torch.Tensor)}) > 1
        # an index of booleans is made into numbers first, whose count the host must know
        counts = name in _INDEXED and any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1])
        if name in _READS or travels or counts:
            self.found.append(str(func))
        return result


class Captures:
    """Makes steps that are captured: the first call computes, the second captures, and from then on the graph is replayed.

    The first call is what a capture needs before it: libraries set themselves up, and what no graph can hold is found.
    All graphs share one pool of memory, which is right because a step leaves nothing in it.

    Args:
        device: the GPU that the steps compute on, which need not be the current one.

    Attributes:
        reason: why nothing is captured; "" while everything is.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)
        self.pool: Any = None
        self.reason: str | None = None

    def __call__(self, step: Step) -> Step:
        """The step, to be called for each token; it must be the same work each time."""
        graph: torch.cuda.CUDAGraph | None = None
        is_warm = False

        def captured() -> None:
            nonlocal graph, is_warm
            if graph is None and is_warm and not self.reason:
                graph = self._captured(step)
            if graph is not None:
                graph.replay()
                return
            is_warm = True
            with self._aside():
                self._watched(step)

        return captured

    def forget(self) -> None:
        """Give the pool up, after all steps were dropped."""
        self.pool = None

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """On the stream of captures, after what the device's current one has been given, which in turn waits for it."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):  # on its device, too
            yield
        current.wait_stream(self.stream)

    def _watched(self, step: Step) -> None:
        """Compute; the first time, see whether this can be captured at all. A capture that fails half way leaves too much behind."""
        if self.reason is not None:
            return step()
        with HostReads() as reads:
            step()
        self._give_up(f"{reads.found[0]} waits for the device" if reads.found else "")

    def _captured(self, step: Step) -> torch.cuda.CUDAGraph | None:
        """The graph of a step, or None if it cannot be captured. Raises OutOfMemoryError."""
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()  # within a capture, memory that was set aside for other streams cannot be had back
        graph = torch.cuda.CUDAGraph()
        try:
            with self._aside():
                # other threads prepare batches meanwhile: their calls must not break the capture
                graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
                try:
                    step()
                except BaseException:
                    with contextlib.suppress(RuntimeError):  # it tells of the first error once more
                        graph.capture_end()
                    raise
                graph.capture_end()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._give_up(str(error).partition("\n")[0])
            return None
        self.pool = graph.pool()
        return graph

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        if reason:
            console.say(f"the steps of generation are not captured, which is slower: {reason}")
