"""The answers so far, on the disk, a line a problem: what was interrupted goes on with the problems that have none."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tutelage.evaluation.draft import with_checksum, without_checksum
from tutelage.runs import append_lines, finite


class Answers:
    """What is answered, and scored afterwards where an engine does not tell: two files, of which a problem has a line in each.

    In memory there are two numbers a problem, however many responses it has.
    """

    def __init__(self, folder: Path, problems: int) -> None:
        self.problems = problems
        self.said, self.scores = _Lines(folder / "answers.jsonl", problems), _Lines(folder / "scores.jsonl", problems)

    def lacking(self) -> list[int]:
        """The indices of problems that have no answers."""
        return [index for index in range(self.problems) if self.said.offsets[index] < 0]

    def unscored(self) -> list[int]:
        """The indices of problems whose answers have no scores, not even afterwards."""
        return [index for index in range(self.problems) if self.said.unscored[index] and self.scores.offsets[index] < 0]

    @property
    def seconds(self) -> float:
        """What answering and scoring took."""
        return self.said.seconds + self.scores.seconds

    def read(self, problem: int) -> list[dict[str, Any]]:
        """The responses to a problem."""
        responses: list[dict[str, Any]] = self.said.read(problem)["responses"]
        if self.scores.offsets[problem] >= 0:
            for response, scores in zip(responses, self.scores.read(problem)["responses"], strict=True):
                response |= scores
        return responses


class _Lines:
    """A file of lines, of problems and of seconds, as they were written.

    Attributes:
        offsets: (problems,) of each problem's line, in bytes; −1 where there is none.
        unscored: (problems,) whether a line's responses lack their scores.
    """

    def __init__(self, file: Path, problems: int) -> None:
        self.file, self.seconds = file, 0.0
        self.offsets, self.unscored = array("q", [-1]) * problems, bytearray(problems)
        self._note(0)

    def _note(self, start: int) -> None:
        """Take in the lines from a byte on. What was torn, or is damaged, is no line."""
        for offset, line in self._scan(start):
            if "problem" in line:
                self.offsets[line["problem"]] = offset
                self.unscored[line["problem"]] = any(each["log_prob"] is None for each in line["responses"])
            self.seconds += line.get("seconds", 0.0)

    def _scan(self, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
        if not self.file.exists():
            return
        with self.file.open("rb") as file:
            file.seek(start)
            for raw in file:
                line = _unsealed(raw)
                if line is not None:
                    yield start, line
                start += len(raw)

    def add(self, lines: Sequence[dict[str, Any]], seconds: float) -> None:
        """Append lines in one write. Raises RunError: they cannot be written."""
        start = self.file.stat().st_size if self.file.exists() else 0
        append_lines(self.file, [with_checksum(finite(line)) for line in [*lines, {"seconds": round(seconds, 3)}]])
        self._note(start)

    def read(self, problem: int) -> dict[str, Any]:
        with self.file.open("rb") as file:
            file.seek(self.offsets[problem])
            line = _unsealed(file.readline())
        if line is None or line["problem"] != problem:
            raise AssertionError(f"{self.file}: has changed while it was read")
        return line


def _unsealed(raw: bytes) -> dict[str, Any] | None:
    """A line without its checksum; None where it was torn, or is damaged."""
    try:
        return without_checksum(json.loads(raw)) if raw.endswith(b"\n") else None
    except ValueError:
        return None
