"""A run directory read back, in one way for all: its configuration, its lines, and what each question was answered."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tutelage.config import Config
from tutelage.console import within
from tutelage.errors import InputError
from tutelage.runs import damage
from tutelage.runs.damage import UNREAD
from tutelage.runs.records import Records, read_records, read_table
from tutelage.runs.schemas import Fate, Generation, fault_of, fault_of_line

EVALUATIONS = ("eval", "eval_failed", "eval_lost")
"""Kinds of lines of evaluations that training stood still for."""
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
LEVELS_PER_OCTAVE = 12

Question = tuple[str, int]
"""The text of a question, and its count among the questions with that text, from 1."""
Scores = dict[Question, float]
"""For each question, the share of its responses that are right."""


@dataclass(frozen=True)
class Reading:
    """What a directory holds that `tutelage train` or `tutelage eval` has written; each file is read once, when it is asked for."""

    directory: Path
    _tables: dict[str, tuple[dict[str, Any], str]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def config(self) -> Config | None:
        """None of a directory of `tutelage eval`. Raises InputError where a run's is damaged."""
        path = self.directory / "config.toml"
        return damage.configuration(path) if path.is_file() else None

    @cached_property
    def metrics(self) -> Records:
        """The lines of metrics.jsonl, and those that are damaged."""
        seen: set[tuple[str, int]] = set()

        def check(value: Any) -> str:
            if fault := fault_of_line(value):
                return fault
            key = value["kind"], value["step"]
            if key in seen and value["kind"] in ("train", "eval"):
                return f"step {value['step']} is logged a second time"
            seen.add(key)
            return ""

        return read_records(self.directory / "metrics.jsonl", check)

    @cached_property
    def responses(self) -> Records:
        """The lines of generations.jsonl, and those that are damaged."""
        return read_records(self.directory / "generations.jsonl", lambda value: fault_of(Generation, value))

    @cached_property
    def ledger(self) -> Records:
        """The lines of ledger.jsonl, and those that are damaged."""
        return read_records(self.directory / "ledger.jsonl", lambda value: fault_of(Fate, value), appended=False)

    @cached_property
    def faults(self) -> list[str]:
        """What is damaged or missing in the directory, and what follows from it; a sentence each."""
        return damage.faults(self)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return self.metrics.lines

    @cached_property
    def steps(self) -> list[dict[str, Any]]:
        """The lines of the optimizer steps, oldest first."""
        return sorted((line for line in self.lines if line["kind"] == "train"), key=lambda line: line["step"])

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """Oldest first. Of a directory of `tutelage eval`, its summary, as of step 0.

        A finished run has them in its result too, from where one is taken that metrics.jsonl has lost.
        """
        summary = self.table("summary.json")
        if summary and not (self.directory / "config.toml").is_file():
            return [{**summary, "kind": "eval", "step": 0}]
        logged = [line for line in self.lines if line["kind"] == "eval"]
        known = {line["step"] for line in logged}
        lost = [line for line in self.table("result.json").get("evaluations", []) if line["step"] not in known]
        return sorted([*logged, *lost], key=lambda line: line["step"])

    @property
    def evaluated(self) -> list[int]:
        """The steps that were evaluated, in order."""
        return [line["step"] for line in self.evaluations]

    @cached_property
    def generations(self) -> dict[int, list[dict[str, Any]]]:
        """The responses of each evaluation that is logged, by its step; their tokens as `encode_tokens`."""
        found: dict[int, list[dict[str, Any]]] = {step: [] for step in self.evaluated}
        for record in self.responses.lines:
            record = {"step": 0, "sample": 0, **record, "tokens": encode_tokens(record.get("tokens"))}
            found.get(record["step"], []).append(record)
        return found

    def panel(self, evaluation: dict[str, Any]) -> list[dict[str, Any]]:
        """The responses to the problems that every evaluation asks."""
        return self.generations[evaluation["step"]][: evaluation["examples"] * evaluation.get("samples", 1)]

    def answers(self, step: int) -> dict[Question, list[dict[str, Any]]]:
        """For each question of an evaluation its records, one a sample. A question that is asked twice is two, in their order."""
        seen: Counter[str] = Counter()
        found: dict[Question, list[dict[str, Any]]] = {}
        for record in self.generations[step]:
            text = self.question_of(record["prompt"])
            if record["sample"] == 0:
                seen[text] += 1
            found.setdefault((text, seen[text]), []).append(record)
        return found

    def scores(self, step: int) -> Scores:
        """For each question of an evaluation, the share of its responses that are right."""
        return {
            question: sum(record["answer_reward"] > 0 for record in records) / len(records)
            for question, records in self.answers(step).items()
        }

    def question_of(self, prompt: str) -> str:
        """The question within a prompt."""
        before, _, after = self.template.partition("{question}")
        if len(prompt) >= len(before) + len(after) and prompt.startswith(before) and prompt.endswith(after):
            return prompt[len(before) : len(prompt) - len(after)].strip()
        return prompt.strip()

    @cached_property
    def template(self) -> str:
        """The prompt template, with ``{question}``."""
        return damage.template(self.directory)[0]

    @property
    def settings(self) -> str:
        """The configuration as TOML, of an evaluation too."""
        return self._text("settings.toml" if self.config is None else "config.toml")

    @cached_property
    def fates(self) -> Counter[str]:
        """How many rows met which fate."""
        known = self.table("data.json").get("fates")
        lines = known or Counter(line["fate"] for line in self.ledger.lines)
        return Counter({fate: count for fate, count in lines.items() if fate != UNREAD})

    def table(self, name: str) -> dict[str, Any]:
        """What a JSON file of the run says; nothing where there is none, or a damaged one (`fault_of`)."""
        return self._read(name)[0]

    def fault_of(self, name: str) -> str:
        """What is wrong with a JSON file of the run; "" if nothing is, or no file is there."""
        return self._read(name)[1]

    def _read(self, name: str) -> tuple[dict[str, Any], str]:
        if name not in self._tables:
            self._tables[name] = read_table(self.directory / name)
        return self._tables[name]

    def _text(self, name: str) -> str:
        path = self.directory / name
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    @property
    def trained(self) -> bool:
        """Whether it is a run that has come to its end."""
        return (self.directory / "result.json").is_file()

    @property
    def finished(self) -> bool:
        """Whether nothing more will come: a run at its end, or an evaluation."""
        return self.trained or self.config is None

    @property
    def last(self) -> dict[str, Any] | None:
        """The evaluation of the last step of a run that has come to its end; None where that failed."""
        lines = self.evaluations if self.trained else ()
        return next((of_all_problems(line) for line in lines if line["step"] == self.last_step), None)

    @property
    def last_step(self) -> int:
        """The last optimizer step of a run: by its result, or by the last one that is logged."""
        logged = self.steps[-1]["step"] if self.steps else 0
        return int(self.table("result.json").get("steps", logged))

    @property
    def training_seconds(self) -> float:
        """Seconds of all steps."""
        return sum(line["seconds"] for line in self.steps)

    @property
    def waiting_by_part(self) -> dict[str, float]:
        """Seconds for which training stood still for evaluations, those that failed or were cut short included, by what for.

        The parts are those of `evaluation.validation.Part`, and "unknown" in runs of before these were logged.
        """
        parts = dict.fromkeys(("weights", "waiting", "entropies", "grading", "unknown"), 0.0)
        for line in self.lines:
            if line["kind"] in EVALUATIONS and "stood_still_seconds" in line:
                for part, seconds in line["stood_still_seconds"].items():
                    parts[part] += seconds
            elif line["kind"] in EVALUATIONS:
                # before `training_seconds` was logged, training waited for the evaluation from its start to its end
                parts["unknown"] += line.get("training_seconds", line.get("seconds", 0.0))
        return parts

    @property
    def waiting_seconds(self) -> float:
        """Seconds for which training stood still for evaluations."""
        return sum(self.waiting_by_part.values())

    @property
    def wall_seconds(self) -> float:
        """Seconds of steps and evaluations, as the clock on the wall has them; loading and saving are not among them."""
        return self.training_seconds + self.waiting_seconds + self.after_training_seconds

    @property
    def after_training_seconds(self) -> float:
        """Seconds of the evaluation after the last step: it holds no training up, but the machine is taken."""
        evaluations = [line for line in self.lines if line["kind"] == "eval" and "adopted_from" not in line]
        return float(next((line["seconds"] for line in evaluations[-1:] if line.get("training_seconds") == 0), 0.0))

    @property
    def evaluation_cost(self) -> dict[str, Any]:
        """What evaluations cost training: seconds of its steps, seconds that it stood still for evaluations, and by what for; `share`:
        of both together, which is the time from the first step to the last; None before the first step. Beside these, seconds of the
        evaluation after the last step."""
        training, parts = self.training_seconds, self.waiting_by_part
        waiting = sum(parts.values())
        return {
            "training_seconds": round(training, 2), "evaluation_seconds": round(waiting, 2),
            "share": round(waiting / (training + waiting), 4) if training else None,
            "stood_still_seconds": {part: round(seconds, 2) for part, seconds in parts.items() if part != "unknown" or seconds},
            "after_training_seconds": round(self.after_training_seconds, 2),
        }  # fmt: skip


def read_run(path: str | Path) -> Reading:
    """The run, or the evaluation, in a directory. Raises InputError if there is none, or nothing of it can be shown."""
    directory = Path(path)
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory")
    if (directory / "trials").is_dir():
        raise InputError(
            f"{directory}: a sweep whose sweep.json is not there any more; put it back, or look at the runs in {directory}/trials"
        )
    parts = sorted(file.parent.name for file in directory.glob("*/summary.json"))
    if parts and not (directory / "config.toml").is_file():
        raise InputError(
            f"{directory}: evaluations on several sources ({', '.join(parts)}); name one, such as {directory / parts[0]}"
        )
    if (directory / "round-0").is_dir():
        raise InputError(
            f"{directory}: of `tutelage improve`, and its improve.json is not there any more; put it back, or look at the runs in"
            f" {directory}/round-0 and beside it"
        )
    if not (directory / "config.toml").is_file() and not (directory / "summary.json").is_file():
        raise InputError(f"{directory}: neither a run nor an evaluation (no config.toml, no summary.json)")
    reading = Reading(directory)
    if reading.config is None and (fault := reading.fault_of("summary.json")):
        raise InputError(f"{directory}/summary.json is damaged: {fault}; it is made by `tutelage eval` alone, so evaluate again")
    return reading


def of_all_problems(evaluation: dict[str, Any]) -> dict[str, Any]:
    """An evaluation of all problems, where that was one; else of the panel."""
    return {**evaluation, **evaluation.get("full", {})}


def shown_accuracy(evaluation: Mapping[str, Any]) -> str:
    """``71.9 % [60–81]``: the accuracy of an evaluation and its 95 % interval."""
    return within(evaluation["accuracy"], *evaluation["accuracy_ci95"])


def aligned(scores: Sequence[Scores]) -> dict[Question, list[float]]:
    """For each question that all sides have answered, its score by each side."""
    return {question: [each[question] for each in scores] for question in scores[0] if all(question in each for each in scores)}


def encode_tokens(tokens: dict[str, list[float]] | None) -> list[Any] | None:
    """A response's tokens with a digit each for entropy and NLL (`digit_of`): [their characters, entropies, NLLs].

    The characters are digits too, or a list of numbers where a token has more characters than a digit can say.
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
