"""What is removed from the cache of rows: what killed processes left, and stores that have not been used for long."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

LEFTOVER_SECONDS = 3600
"""A temporary file that was not written to for so long has no writer: a part is written in seconds."""
KEPT, KEPT_SECONDS = 12, 86_400
"""Stores that are kept: those used last, and any that was used within a day."""


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed were writing. Another machine may be writing too, so what is new stays."""
    for path in folder.glob(".*"):
        with contextlib.suppress(OSError):  # another process has removed it, or renamed it
            if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                path.unlink()


def remove_unused(used: Path) -> None:
    """Remove stores that have not been used for long."""
    ages = sorted((time.time() - _last_used(folder), folder) for folder in used.parent.iterdir() if folder != used)
    for age, folder in ages[KEPT:]:
        if age > KEPT_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _last_used(folder: Path) -> float:
    """When a store was used last; one that was never complete, when it was written last."""
    for path in (folder / "done.json", folder):
        with contextlib.suppress(OSError):
            return path.stat().st_mtime
    return time.time()  # another process has removed it
