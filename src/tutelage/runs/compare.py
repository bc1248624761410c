"""``tutelage compare``: two evaluations of the same questions, in pairs: what was gained, what was lost, and whether it means anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.config import differences
from tutelage.errors import InputError
from tutelage.grading import reference_text
from tutelage.runs import damage
from tutelage.runs.reading import Question, Reading, aligned, read_run
from tutelage.stats import Difference, compare, in_words, wilson_interval

MOST_CHARACTERS = 400
"""Characters of a response that are printed, from its end."""

Pairs = Mapping[Question, Sequence[float]]
"""For each question that two sides have answered, the two scores."""


@dataclass(frozen=True)
class Side:
    """One evaluation: a run's name, the step, and what each question was answered."""

    name: str
    reading: Reading
    step: int
    answers: dict[Question, list[dict[str, Any]]]


@dataclass(frozen=True)
class Comparison:
    """Two evaluations on the questions that both were asked. `left_out`: the count of questions that one side alone was asked."""

    first: Side
    second: Side
    pairs: Pairs
    kinds: dict[str, list[Question]]
    difference: Difference
    left_out: int

    @property
    def verdict(self) -> str:
        return in_words(self.difference, self.first.name, self.second.name)


def kinds_of(pairs: Pairs) -> dict[str, list[Question]]:
    """The questions that ``both`` sides solve, those ``gained`` and ``lost`` by the second side, and those that ``neither`` solves.

    A side solves a question if half of its responses or more are right.
    """
    names = {(True, True): "both", (False, True): "gained", (True, False): "lost", (False, False): "neither"}
    kinds: dict[str, list[Question]] = {name: [] for name in names.values()}
    for question, (first, second) in pairs.items():
        kinds[names[first >= 0.5, second >= 0.5]].append(question)
    return kinds


def difference_of(pairs: Pairs) -> Difference:
    """The accuracy of the second side against that of the first."""
    return compare([[first] for first, _ in pairs.values()], [[second] for _, second in pairs.values()])


def side(name: str) -> Side:
    """The evaluation that ``RUN`` (its last one) or ``RUN@STEP`` names. Raises InputError if there is none."""
    path, separator, text = name.rpartition("@")
    if not separator or not text.isdecimal() or Path(name).exists():
        path, text = name, ""
    reading = read_run(path)
    steps = reading.evaluated
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
    pairs = aligned([each.reading.scores(each.step) for each in (first, second)])
    if not pairs:
        raise InputError(
            f"{first.name} and {second.name} have no question in common: {next(iter(first.answers))[0][:80]!r}, and"
            f" {next(iter(second.answers))[0][:80]!r}"
        )
    for question in pairs:
        a, b = (each.answers[question][0]["ground_truth"] for each in (first, second))
        if a != b:
            raise InputError(f"the reference of {question[0][:80]!r} is {a!r} in {first.name}, and {b!r} in {second.name}")
    left_out = len(first.answers) + len(second.answers) - 2 * len(pairs)
    return Comparison(first, second, pairs, kinds_of(pairs), difference_of(pairs), left_out)


def compare_runs(first: str, second: str, examples: int = 3) -> Comparison:
    """Print what changed from one evaluation to another.

    Args:
        first, second: run directories, or directories of `tutelage eval`; ``RUN@STEP`` for another evaluation than the last.
        examples: problems shown of each kind of change.
    """
    sides = side(first), side(second)
    for each in sides:
        damage.say(each.reading.faults, each.reading.directory)
    found = pair(*sides)
    show(found, examples)
    return found


def show(found: Comparison, examples: int) -> None:
    """Print the counts, the verdict, the settings that differ, and examples."""
    count = len(found.pairs)
    labels = {"both": "solved by both", "gained": "gained", "lost": "lost", "neither": "solved by neither"}
    rows = [(labels[kind], len(those), console.percent(len(those) / count)) for kind, those in found.kinds.items()]
    console.say(f"{found.first.name} → {found.second.name}")
    console.table(f"{count} questions that both were asked", ("", "questions", "share"), rows)
    for name, scores in zip((found.first.name, found.second.name), zip(*found.pairs.values(), strict=True), strict=True):
        accuracy = console.within(sum(scores) / count, *wilson_interval(sum(scores), count))
        console.say(f"{name}: accuracy {accuracy} on them")
    console.say(found.verdict, style="bold")
    if found.left_out:
        console.say(f"{found.left_out} questions were asked of one of the two only, and are left out", style="yellow")
    a, b = found.first.reading.config, found.second.reading.config
    if a is not None and b is not None and (lines := differences(a, b, {"run.dir"})):
        console.say("settings that differ:")
        for line in lines:
            console.say(f"  {line}")
    for kind in ("gained", "lost"):
        for question in found.kinds[kind][:examples]:
            _show_example(kind, question, found)


def _show_example(kind: str, question: Question, found: Comparison) -> None:
    console.say(f"\n{kind}: {question[0]}", style="bold")
    console.say(f"  reference: {reference_text(found.first.answers[question][0]['ground_truth'])}")
    for each in (found.first, found.second):
        text = " ".join(each.answers[question][0]["response"].split())
        end = text if len(text) <= MOST_CHARACTERS else f"… {text[-MOST_CHARACTERS:]}"
        console.say(f"  {each.name}: {end}")


def as_json(found: Comparison) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "first": found.first.name, "second": found.second.name,
        "questions": {kind: len(questions) for kind, questions in found.kinds.items()},
        "gained": [question[0] for question in found.kinds["gained"]],
        "lost": [question[0] for question in found.kinds["lost"]],
        "difference": vars(found.difference), "verdict": found.verdict, "left_out": found.left_out,
    }  # fmt: skip
