"""What an evaluation under way has answered so far, on the disk: a run that is stopped in it goes on where it was."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tutelage import console
from tutelage.errors import RunError
from tutelage.evaluation.engine import Completion, Sampling
from tutelage.runs import append_lines, read_lines, to_lines, write_text

PREFIX = ".evaluation-"


class Draft:
    """The answers of one evaluation, in one file per rank.

    Answers depend on weights, prompt, sampling and the numbers of problem and sample alone. So those of another step, other
    prompts, another sampling, or that were found otherwise (`how`: by another back end) have another name, and are not found.
    """

    def __init__(
        self, run: Path, step: int, prompts: Sequence[Sequence[int]], sampling: Sampling, how: str = "", rank: int = 0
    ) -> None:
        asked = hashlib.sha256(repr(([list(prompt) for prompt in prompts], sampling, how)).encode()).hexdigest()[:12]
        self.broken = False
        self.run, self.name = run, f"{PREFIX}{step}-{asked}"
        self.file = run / f"{self.name}.{rank}.jsonl"

    def known(self) -> dict[int, list[Completion]]:
        """The answers so far of all ranks, by the numbers of their problems; to be asked before more are added."""
        answers = {}
        for file in self.run.glob(f"{self.name}.*.jsonl"):
            lines = read_lines(file)
            write_text(file, to_lines(lines))  # without a last line that was torn
            for line in lines:
                answers[line["problem"]] = [_completion(values) for values in line["completions"]]
        return answers

    def add(self, answers: Mapping[int, Sequence[Completion]]) -> None:
        """Keep more answers. Where they cannot be written, that is told once, and the evaluation does without."""
        lines = [{"problem": number, "completions": [asdict(each) for each in answers[number]]} for number in answers]
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
    """Remove the drafts of a run, but those of one step."""
    for file in run.glob(f"{PREFIX}*"):
        if but_of is None or not file.name.startswith(f"{PREFIX}{but_of}-"):
            file.unlink(missing_ok=True)


def _completion(values: dict[str, object]) -> Completion:
    entropies, log_probs = values["entropies"], values.get("log_probs")
    return Completion(
        str(values["text"]),
        tuple(values["token_ids"]),  # type: ignore[arg-type]
        str(values["finish_reason"]),
        None if entropies is None else tuple(entropies),  # type: ignore[arg-type]
        None if log_probs is None else tuple(log_probs),  # type: ignore[arg-type]
    )
