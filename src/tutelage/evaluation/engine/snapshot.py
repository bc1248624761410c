"""A copy of a model's weights in memory that processes share: what the trainer leaves behind and an engine reads at its leisure."""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tutelage.machines import full_tensor


@dataclass(frozen=True)
class Entry:
    """Name, type, shape and position (`offset`, in bytes) of a weight."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


class Snapshot:
    """Weights in a file without a name, in memory, which lives as long as a process has it open: a crash leaves nothing behind.

    Not in /dev/shm, of which containers often have 64 MB.
    """

    def __init__(self, fd: int, entries: tuple[Entry, ...]) -> None:
        self.fd, self.entries = fd, entries
        weakref.finalize(self, os.close, fd)

    @property
    def size(self) -> int:
        """In bytes."""
        return os.fstat(self.fd).st_size

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights by name, as views of the shared memory; none is copied."""
        if not self.entries:
            return {}
        memory = mmap.mmap(self.fd, self.size)
        return {
            entry.name: torch.frombuffer(
                memory, dtype=entry.dtype, count=torch.Size(entry.shape).numel(), offset=entry.offset
            ).view(entry.shape)
            for entry in self.entries
        }

    def sha256(self) -> str:
        """A hash of names, types, shapes and values."""
        digest = hashlib.sha256(repr([(entry.name, entry.dtype, entry.shape) for entry in self.entries]).encode())
        if self.entries:
            with mmap.mmap(self.fd, self.size, access=mmap.ACCESS_READ) as memory:
                digest.update(memory)
        return digest.hexdigest()


def take(weights: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype, keep: bool = True) -> Snapshot:
    """Copy weights, the floating-point ones as `dtype`.

    They are written one at a time, so that of sharded weights (DTensor) never more than one is full on a device.

    Args:
        weights: by name. Sharded ones are gathered, which every rank has to take part in.
        keep: whether this rank writes what it gathers; the others get an empty snapshot.

    Raises:
        OSError: there is no memory for it.
    """
    fd = _file_without_a_name()
    entries: list[Entry] = []
    offset = 0
    failure: OSError | MemoryError | None = None
    try:
        for name, tensor in weights:
            full = full_tensor(tensor)
            if not keep or failure is not None:  # the others count on this rank to gather all the same
                continue
            try:
                copy = full.detach().to("cpu", dtype if full.is_floating_point() else full.dtype).contiguous()
                entries.append(Entry(name, copy.dtype, tuple(copy.shape), offset))
                offset = _write(fd, copy, offset)
            except (OSError, MemoryError) as error:
                failure = error
        if failure is not None:
            raise failure
    except BaseException:
        os.close(fd)
        raise
    return Snapshot(fd, tuple(entries))


def _file_without_a_name() -> int:
    """The descriptor of a file in memory or, where the system has no such files (macOS), of a temporary file without a name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("tutelage-weights", os.MFD_CLOEXEC)
    fd, name = tempfile.mkstemp(prefix="tutelage-weights-")
    Path(name).unlink()
    return fd


def _write(fd: int, tensor: torch.Tensor, offset: int) -> int:
    data: Any = memoryview(tensor.flatten().view(torch.uint8).numpy().data)
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written
    return offset
