"""The answers so far of an evaluation under way, on the disk: a run that is stopped during it goes on from there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.errors import RunError
from tutelage.evaluation.engine import Completion, Sampling
from tutelage.runs import append_lines, read_records, to_lines, write_text

PREFIX = ".evaluation-"


class Draft:
    """The answers of one evaluation, in one file per rank of the run directory.

    Args:
        key: see `key`; another evaluation has another key, and does not find these answers.
    """

    def __init__(self, run: Path, key: str, rank: int = 0) -> None:
        self.broken = False
        self.run, self.name = run, f"{PREFIX}{key}"
        self.file = run / f"{self.name}.{rank}.jsonl"

    @staticmethod
    def key(step: int, prompts: Sequence[Sequence[int]], sampling: Sampling, *solver: str) -> str:
        """A name for all that answers depend on.

        Args:
            step: whose weights answer.
            prompts: token ids.
            solver: what answers (the engine), and what else changes its answers, such as the precision.
        """
        asked = repr(([list(prompt) for prompt in prompts], sampling, solver))
        return f"{step}-{hashlib.sha256(asked.encode()).hexdigest()[:12]}"

    def known(self) -> dict[int, list[Completion]]:
        """The answers so far of all ranks, by the indices of their problems. Call it before more are added."""
        answers = {}
        for file in self.run.glob(f"{self.name}.*.jsonl"):
            lines = read_records(file, _fault_of).lines
            write_text(file, to_lines(lines))  # without damaged lines, or a last one that was torn
            for line in lines:
                if "problem" in line:
                    answers[line["problem"]] = [_completion(values) for values in line["completions"]]
        return answers

    def add_seconds(self, seconds: float) -> None:
        """Keep for how long training stood still for the answers so far, where it is asked to stop before it has them all."""
        with contextlib.suppress(RunError):
            append_lines(self.file, [with_checksum({"seconds": seconds})])

    def seconds(self) -> float:
        """For how long training stood still for the answers that are known, until it was stopped."""
        files = self.run.glob(f"{self.name}.*.jsonl")
        return sum(line.get("seconds", 0.0) for file in files for line in read_records(file, _fault_of).lines)

    def add(self, answers: Mapping[int, Sequence[Completion]]) -> None:
        """Keep more answers. If they cannot be written, that is said once, and the evaluation does without."""
        lines = [with_checksum({"problem": index, "completions": [asdict(each) for each in answers[index]]}) for index in answers]
        try:
            if not self.broken:
                append_lines(self.file, lines)
        except RunError as error:
            self.broken = True
            console.say(f"answers are not kept before the evaluation is finished: {error}", style="yellow")

    def forget(self) -> None:
        """Remove the answers of all ranks."""
        for file in self.run.glob(f"{self.name}.*.jsonl"):
            file.unlink(missing_ok=True)


def forget_drafts(run: Path, but_of: int | None = None) -> None:
    """Remove the drafts of a run, except those of one step."""
    for file in run.glob(f"{PREFIX}*"):
        if but_of is None or not file.name.startswith(f"{PREFIX}{but_of}-"):
            file.unlink(missing_ok=True)


def with_checksum(line: dict[str, Any]) -> dict[str, Any]:
    return {**line, "crc32": zlib.crc32(json.dumps(line).encode())}


def without_checksum(line: Any) -> dict[str, Any] | None:
    """A line as it was before `with_checksum`; None where it is no such line, or damaged."""
    bare = {key: value for key, value in line.items() if key != "crc32"} if isinstance(line, dict) else {}
    return bare if with_checksum(bare) == line else None


def _fault_of(line: Any) -> str:
    """What is wrong with a line of a draft; its problem is asked again then."""
    return "damaged" if without_checksum(line) is None else ""


def _completion(values: dict[str, Any]) -> Completion:
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return Completion(**fields)
