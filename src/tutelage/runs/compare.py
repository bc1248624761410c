"""``tutelage compare``: two evaluations of the same questions, in pairs: what was gained, what was lost, and whether it means anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.config import differences
from tutelage.errors import InputError
from tutelage.grading import reference_text
from tutelage.runs import damage
from tutelage.runs.reading import Question, Reading, aligned, read_run
from tutelage.stats import Difference, compare, crossed_interval, in_words, judged_together

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
    """Two evaluations on the questions that both were asked.

    Attributes:
        left_out: the count of questions that one side alone was asked.
        untouched: by name, each trained side against the model that it was trained from, where its run has evaluated that. All
            differences of a comparison are judged together.
    """

    first: Side
    second: Side
    pairs: Pairs
    kinds: dict[str, list[Question]]
    difference: Difference
    left_out: int
    untouched: dict[str, Difference] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        from_untouched = self.first.step == 0 and self.first.reading.directory == self.second.reading.directory
        return verdict_of(self.difference, self.first.name, self.second.name, from_untouched)

    @property
    def below_untouched(self) -> list[str]:
        """What is said of each side that solves fewer questions than the model that it was trained from."""
        found = {name: each for name, each in self.untouched.items() if each.significant and each.estimate < 0}
        return [verdict_of(each, "the untouched model", name, True) for name, each in found.items()]


def verdict_of(difference: Difference, first: str, second: str, from_untouched: bool) -> str:
    """What a difference says; of a model that has become worse than the untouched one, that first."""
    below = from_untouched and difference.significant and difference.estimate < 0
    return f"{'below the untouched model: ' if below else ''}{in_words(difference, first, second)}"


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
    beside = _against_untouched(first, second)
    difference, *others = judged_together([difference_of(pairs), *beside.values()])
    return Comparison(first, second, pairs, kinds_of(pairs), difference, left_out, dict(zip(beside, others, strict=True)))


def _against_untouched(first: Side, second: Side) -> dict[str, Difference]:
    """Each trained side against step 0 of its run, by the side's name, unless the two sides are that pair themselves."""
    if first.reading.directory == second.reading.directory and 0 in (first.step, second.step):
        return {}
    found = {}
    for each in (first, second):
        if each.step > 0 and 0 in each.reading.evaluated:
            pairs = aligned([each.reading.scores(0), each.reading.scores(each.step)])
            if pairs:
                name = each.name if first.name != second.name else f"{each.reading.directory} (step {each.step})"
                found[name] = difference_of(pairs)
    return found


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
        accuracy = console.within(sum(scores) / count, *crossed_interval([[score] for score in scores]))
        console.say(f"{name}: accuracy {accuracy} on them")
    console.say(found.verdict, style="bold")
    for line in found.below_untouched:
        console.say(line, style="bold")
    if found.difference.comparisons > 1:
        console.say(
            f"{found.difference.comparisons} comparisons (each side with its untouched model, too) are judged together, by Holm's rule."
        )
    if found.difference.seeds == 1 and found.first.step > 0 < found.second.step:
        console.say("Each side is one training run: one seed cannot tell the spread between seeds; tutelage sweep --seeds 3")
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
        "against_untouched": {name: vars(each) for name, each in found.untouched.items()}, "below_untouched": found.below_untouched,
    }  # fmt: skip
