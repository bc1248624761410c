"""``tutelage compare``: two evaluations of the same questions, in pairs: what was gained, what was lost, and whether it means anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.config import differences
from tutelage.errors import InputError
from tutelage.runs.readings import Question, Reading, read_run, score
from tutelage.stats import Difference, compare, in_words, wilson_interval

Answers = dict[Question, list[dict[str, Any]]]
SAID = 400
"""Characters of a response that are printed, from its end."""


@dataclass(frozen=True)
class Side:
    """One evaluation: a run's name, the step, and what each question was answered."""

    name: str
    reading: Reading
    step: int
    answers: Answers


@dataclass(frozen=True)
class Comparison:
    """Two evaluations on the questions that both were asked, sorted by who solves them (in half of its samples, or more)."""

    first: Side
    second: Side
    both: list[Question]
    gained: list[Question]
    lost: list[Question]
    neither: list[Question]
    difference: Difference
    left_out: int


def side(where: str) -> Side:
    """The evaluation that ``RUN`` (its last one) or ``RUN@STEP`` names. Raises InputError if there is none."""
    path, separator, text = where.rpartition("@")
    if not separator or not text.isdecimal() or Path(where).exists():
        path, text = where, ""
    reading = read_run(path)
    steps = [line["step"] for line in reading.evaluations]
    if not steps:
        raise InputError(f"{path}: no evaluation is logged there")
    step = int(text) if text else steps[-1]
    if step not in steps:
        raise InputError(f"{path}: step {step} was not evaluated; {', '.join(map(str, steps))} were")
    answers = reading.answers(step)
    if not answers:
        raise InputError(f"{path}: generations.jsonl holds no response of step {step}")
    return Side(f"{reading.directory.absolute().name} (step {step})" if reading.config else path, reading, step, answers)


def pair(first: Side, second: Side) -> Comparison:
    """Compare on the questions that both were asked. Raises InputError if there are none, or references differ."""
    shared = [question for question in first.answers if question in second.answers]
    if not shared:
        raise InputError(
            f"{first.name} and {second.name} have no question in common: {next(iter(first.answers))[0][:80]!r}, and"
            f" {next(iter(second.answers))[0][:80]!r}"
        )
    for question in shared:
        a, b = (part.answers[question][0]["ground_truth"] for part in (first, second))
        if a != b:
            raise InputError(f"the reference of {question[0][:80]!r} is {a!r} in {first.name}, and {b!r} in {second.name}")
    a = {question: score(first.answers[question]) for question in shared}
    b = {question: score(second.answers[question]) for question in shared}

    def those(solved_first: bool, solved_second: bool) -> list[Question]:
        return [question for question in shared if (a[question] >= 0.5, b[question] >= 0.5) == (solved_first, solved_second)]

    return Comparison(
        first, second, those(True, True), those(False, True), those(True, False), those(False, False),
        compare([[a[question]] for question in shared], [[b[question]] for question in shared]),
        len(first.answers) + len(second.answers) - 2 * len(shared),
    )  # fmt: skip


def compare_runs(first: str, second: str, examples: int = 3) -> Comparison:
    """Print what changed from one evaluation to another.

    Args:
        first, second: run directories, or directories of `tutelage eval`; ``RUN@STEP`` for another evaluation than the last.
        examples: problems shown of each kind of change.
    """
    found = pair(side(first), side(second))
    show(found, examples)
    return found


def show(found: Comparison, examples: int) -> None:
    """Print the counts, the verdict, the settings that differ, and examples."""
    count = found.difference.questions
    kinds = {"solved by both": found.both, "gained": found.gained, "lost": found.lost, "solved by neither": found.neither}
    rows = [(name, len(questions), console.percent(len(questions) / count)) for name, questions in kinds.items()]
    console.say(f"{found.first.name} → {found.second.name}")
    console.table(f"{count} questions that both were asked", ("", "questions", "share"), rows)
    shared = [*found.both, *found.gained, *found.lost, *found.neither]
    for part in (found.first, found.second):
        accuracy = sum(score(part.answers[question]) for question in shared) / count
        interval = wilson_interval(accuracy * count, count)
        console.say(f"{part.name}: accuracy {console.within(accuracy, *interval)} on them")
    console.say(in_words(found.difference, found.first.name, found.second.name), style="bold")
    if found.left_out:
        console.say(f"{found.left_out} questions were asked of one of the two only, and are left out", style="yellow")
    _show_settings(found)
    for name, questions in (("gained", found.gained), ("lost", found.lost)):
        for question in questions[:examples]:
            _show_example(name, question, found)


def as_json(found: Comparison) -> dict[str, Any]:
    """What `--json` prints."""
    kinds = {"both": found.both, "gained": found.gained, "lost": found.lost, "neither": found.neither}
    return {
        "first": found.first.name, "second": found.second.name,
        "questions": {name: len(questions) for name, questions in kinds.items()},
        "gained": [question[0] for question in found.gained], "lost": [question[0] for question in found.lost],
        "difference": vars(found.difference), "verdict": in_words(found.difference, found.first.name, found.second.name),
        "left_out": found.left_out,
    }  # fmt: skip


def _show_settings(found: Comparison) -> None:
    a, b = found.first.reading.config, found.second.reading.config
    if a is not None and b is not None and (lines := differences(a, b, {"run.dir"})):
        console.say("settings that differ:")
        for line in lines:
            console.say(f"  {line}")


def _show_example(name: str, question: Question, found: Comparison) -> None:
    console.say(f"\n{name}: {question[0]}", style="bold")
    console.say(f"  reference: {found.first.answers[question][0]['ground_truth']}")
    for part in (found.first, found.second):
        console.say(f"  {part.name}: {_end(part.answers[question])}")


def _end(records: Sequence[dict[str, Any]]) -> str:
    text = " ".join(records[0]["response"].split())
    return text if len(text) <= SAID else f"… {text[-SAID:]}"
