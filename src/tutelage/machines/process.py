"""How this process uses the machine: settings that must be made before torch starts its threads; signals that wait."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tutelage.machines.request import POLITE_SIGNALS, ends_by_itself

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h


def prepare_process() -> None:
    """Threads that wait asleep, and an allocator that keeps freed tensors; call before torch is imported.

    Threads that spin while they wait steal the cores from those that compute. And glibc gives every large freed tensor back to
    the kernel and pages it in again a moment later, which costs a good part of a training step (bench/allocator.py).
    Variables that the person has set stay as they are.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # no report on what runs on this machine
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_directory() / "inductor"))  # what was compiled once, stays
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
        if mallopt is not None:
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
            mallopt(M_TOP_PAD, 64 << 20)


def available_cores() -> int:
    """How many cores this process may use; where the system does not say (macOS), all that there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_memory() -> int | None:
    """Bytes of memory of this machine, free or not; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def cache_directory() -> Path:
    """Where what can be made again is kept: the directory TUTELAGE_CACHE names, else ~/.cache/tutelage."""
    return Path(os.environ.get("TUTELAGE_CACHE") or Path.home() / ".cache" / "tutelage")


def end_with(parent: int) -> None:
    """From now on this process ends when its parent has ended, in whatever way."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C, and polite signals where they end the process, wait until the block is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[Any] = []
    deferred = [each for each in (signal.SIGINT, *POLITE_SIGNALS) if ends_by_itself(signal.getsignal(each))]
    previous = {each: signal.signal(each, lambda *arguments: received.append(arguments)) for each in deferred}
    try:
        yield
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
    if received:
        handler = previous[received[0][0]]
        if not callable(handler):
            raise KeyboardInterrupt
        handler(*received[0])
