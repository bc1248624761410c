"""The JSON lines of a file, for tests of what is written."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A line that was torn is left out; no file has none."""
    found = []
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found
