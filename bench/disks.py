"""Disks that fill up: a small one in memory, where mounting is allowed, or a limit of what a file may hold."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from pathlib import Path


def limit(kilobytes: int) -> None:
    """Make each write fail that would make a file longer."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, kilobytes * 1024))


def mount(folder: Path, megabytes: int) -> bool:
    folder.mkdir()
    return ctypes.CDLL(None, use_errno=True).mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={megabytes}m".encode()) == 0


def unmount(folder: Path) -> None:
    ctypes.CDLL(None).umount2(os.fsencode(folder), 2)  # detached, even if it is in use


def fill(path: Path) -> None:
    """Take all room that a disk has."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
