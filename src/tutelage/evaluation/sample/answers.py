"""The answers so far, on the disk: each problem's responses are one line, so what was interrupted goes on with the problems that lack one."""

from __future__ import annotations

import json
import zlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tutelage.runs import append_lines


class Lines:
    """A file of lines, one a problem, in the order in which they were written. In memory there is its offset for each problem.

    Attributes:
        offsets: (problems,) bytes; −1 of a problem without a line.
        seconds: what the lines took together.
    """

    def __init__(self, file: Path, problems: int) -> None:
        self.file, self.offsets, self.seconds = file, array("q", [-1]) * problems, 0.0
        for offset, line in self._scan():
            if "problem" in line:
                self.offsets[line["problem"]] = offset
            self.seconds += line.get("seconds", 0.0)

    def _scan(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(offset, line) of each line that is whole."""
        if not self.file.exists():
            return
        offset = 0
        with self.file.open("rb") as file:
            for raw in file:
                line = _unsealed(raw)
                if line is not None:
                    yield offset, line
                offset += len(raw)

    def lacks(self, problem: int) -> bool:
        return self.offsets[problem] < 0

    def add(self, lines: Sequence[dict[str, Any]], seconds: float) -> None:
        """Append lines in one write. Raises RunError: they cannot be written."""
        start = self.file.stat().st_size if self.file.exists() else 0
        append_lines(self.file, [_sealed(line) for line in [*lines, {"seconds": round(seconds, 3)}]])
        with self.file.open("rb") as file:
            file.seek(start)
            for raw in iter(file.readline, b""):
                line = _unsealed(raw)
                if line is not None and "problem" in line:
                    self.offsets[line["problem"]] = start
                start += len(raw)
        self.seconds += seconds

    def read(self, problem: int) -> dict[str, Any]:
        with self.file.open("rb") as file:
            file.seek(self.offsets[problem])
            line = _unsealed(file.readline())
        if line is None or line["problem"] != problem:
            raise ValueError(f"{self.file}: has changed while it was read")
        return line


def _sealed(line: dict[str, Any]) -> dict[str, Any]:
    """A line with its checksum."""
    return {**line, "crc32": zlib.crc32(json.dumps(line).encode())}


def _unsealed(raw: bytes) -> dict[str, Any] | None:
    """A line without its checksum; None where it was torn, or is damaged."""
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(line, dict) or not raw.endswith(b"\n"):
        return None
    bare = {key: value for key, value in line.items() if key != "crc32"}
    return bare if line == _sealed(bare) else None
