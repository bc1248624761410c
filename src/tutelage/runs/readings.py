"""A run directory read back: its configuration, its lines, and what each question was answered."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tutelage.config import Config, load_config
from tutelage.errors import InputError
from tutelage.runs.runlog import iter_lines, read_lines

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
LEVELS_PER_OCTAVE = 12

Question = tuple[str, int]
"""The text of a question, and which of those with the same text it is."""


@dataclass(frozen=True)
class Reading:
    """What a directory holds that `tutelage train` or `tutelage eval` has written."""

    directory: Path

    @cached_property
    def config(self) -> Config | None:
        """None where an evaluation alone is."""
        path = self.directory / "config.toml"
        return load_config(path) if path.is_file() else None

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        return read_lines(self.directory / "metrics.jsonl")

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["kind"] == "train"]

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """Oldest first. Of a directory of `tutelage eval`, its summary, as of step 0."""
        summary = self.directory / "summary.json"
        if self.config is None and summary.is_file():
            return [{"kind": "eval", "step": 0, **json.loads(summary.read_text(encoding="utf-8"))}]
        return sorted((line for line in self.lines if line["kind"] == "eval"), key=lambda line: line["step"])

    @cached_property
    def generations(self) -> dict[int, list[dict[str, Any]]]:
        """The responses of each evaluation that is logged, by its step; their tokens as `encode_tokens`."""
        found: dict[int, list[dict[str, Any]]] = {line["step"]: [] for line in self.evaluations}
        for record in iter_lines(self.directory / "generations.jsonl"):
            record = {"step": 0, "sample": 0, **record, "tokens": encode_tokens(record.get("tokens"))}
            found.get(record["step"], []).append(record)
        return found

    def panel(self, evaluation: dict[str, Any]) -> list[dict[str, Any]]:
        """The responses to the problems that every evaluation asks."""
        return self.generations[evaluation["step"]][: evaluation["examples"] * evaluation.get("samples", 1)]

    @property
    def settings(self) -> str:
        """The configuration as TOML, of an evaluation too."""
        path = self.directory / ("settings.toml" if self.config is None else "config.toml")
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    @cached_property
    def template(self) -> str:
        """The prompt template, with ``{question}``."""
        path = self.directory / "prompt.txt"
        return path.read_text(encoding="utf-8") if path.is_file() else "{question}"

    @cached_property
    def fates(self) -> Counter[str]:
        """How many rows met which fate."""
        return Counter(line["fate"] for line in read_lines(self.directory / "ledger.jsonl"))

    def table(self, name: str) -> dict[str, Any]:
        """What a JSON file of the run says; nothing where there is none."""
        path = self.directory / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @property
    def trained(self) -> bool:
        """Whether it is a run that has come to its end."""
        return (self.directory / "result.json").is_file()

    @property
    def last(self) -> dict[str, Any] | None:
        """The evaluation of the last step of a run that has come to its end; None where that failed."""
        steps = self.table("result.json").get("steps")
        return next((of_all_problems(line) for line in self.evaluations if line["step"] == steps), None) if steps is not None else None

    @property
    def finished(self) -> bool:
        """Whether nothing more will come: a run at its end, or an evaluation."""
        return self.trained or self.config is None

    def question_of(self, prompt: str) -> str:
        """The question within a prompt."""
        before, _, after = self.template.partition("{question}")
        if len(prompt) >= len(before) + len(after) and prompt.startswith(before) and prompt.endswith(after):
            return prompt[len(before) : len(prompt) - len(after)].strip()
        return prompt.strip()

    def answers(self, step: int) -> dict[Question, list[dict[str, Any]]]:
        """Of each question of an evaluation, its records, one for each sample."""
        return by_question(self.generations[step], self)


def encode_tokens(tokens: dict[str, list[float]] | None) -> list[Any] | None:
    """A response's tokens with a digit each for entropy and NLL (`digit_of`): [their characters, entropies, NLLs].

    The characters are digits too, or, where a token has more than a digit can say, a list of numbers.
    """
    if tokens is None:
        return None
    counts = [int(count) for count in tokens["characters"]]
    briefly = counts if any(count >= len(DIGITS) for count in counts) else "".join(DIGITS[count] for count in counts)
    return [briefly, "".join(map(digit_of, tokens["entropy"])), "".join(map(digit_of, tokens["nll"]))]


def digit_of(nats: float) -> str:
    """A value in one of 62 digits, in equal steps of log2(1 + nats): 0.06 nats near zero, 33 and more at the end."""
    if not nats > 0:  # rounding may go below; what is no number has no shade
        return DIGITS[0]
    return DIGITS[round(min(len(DIGITS) - 1, LEVELS_PER_OCTAVE * math.log2(1 + nats)))]


def by_question(records: Iterable[dict[str, Any]], reading: Reading) -> dict[Question, list[dict[str, Any]]]:
    """Records of one evaluation by their question. A question that is asked twice is two questions, in their order."""
    seen: Counter[str] = Counter()
    found: dict[Question, list[dict[str, Any]]] = {}
    for record in records:
        text = reading.question_of(record["prompt"])
        if record["sample"] == 0:
            seen[text] += 1
        found.setdefault((text, seen[text]), []).append(record)
    return found


def read_run(path: str | Path) -> Reading:
    """The run, or the evaluation, in a directory. Raises InputError if there is none."""
    directory = Path(path)
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory")
    if not (directory / "config.toml").is_file() and not (directory / "summary.json").is_file():
        raise InputError(f"{directory}: neither a run nor an evaluation (no config.toml, no summary.json)")
    return Reading(directory)


def score(records: Iterable[Mapping[str, Any]]) -> float:
    """The share of a question's responses that are right."""
    right = [record["answer_reward"] > 0 for record in records]
    return sum(right) / len(right)


def of_all_problems(evaluation: dict[str, Any]) -> dict[str, Any]:
    """An evaluation of all problems, where that was one; else of the panel."""
    return {**evaluation, **evaluation.get("full", {})}
