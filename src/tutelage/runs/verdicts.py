"""What a sweep's curves say, in words: points beside each other and beside the untouched model, and what more rows would bring.

All comparisons of a sweep are judged together: p-values are adjusted for their number by Holm's rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tutelage import console
from tutelage.runs import damage
from tutelage.runs.reading import Scores, aligned
from tutelage.runs.results import Found, curves, failures, faults, points, read_state
from tutelage.stats import Continued, Difference, compare, continued, gain_in_words, in_points, in_words, judged_together

ONE_SEED = "one seed cannot tell the spread between seeds; --seeds 3"
UNTOUCHED = "the untouched model"


@dataclass(frozen=True)
class Verdicts:
    """The comparisons of a sweep, judged together.

    Attributes:
        pairs: (first, second, second against first).
        untouched: of each point that has one: the point against the untouched model.
        growth: of each curve, by its name: what it would do beyond its data.
        seeds: the most that a point was tried with.
    """

    pairs: list[tuple[Found, Found, Difference]]
    untouched: list[tuple[Found, Difference]]
    growth: dict[str, Continued]
    seeds: int

    def beside_untouched(self, point: Found) -> str:
        """``+12.5 points``, ``below: -8.0 points``, or ``not told apart``; empty without an evaluation of the untouched model."""
        return next((standing(found) for each, found in self.untouched if each is point), "")


def judge(found: Sequence[Found]) -> Verdicts:
    """Compare what there is to compare: kinds of data at each size, the largest size with the smallest, and each point with the
    untouched model."""
    pairs = _pairs(found)
    with_untouched = [point for point in found if point.untouched]
    differences = judged_together(
        [
            *(difference(first.scores, second.scores) for first, second in pairs),
            *(difference(point.untouched, point.scores) for point in with_untouched),
        ]
    )
    return Verdicts(
        [(*pair, each) for pair, each in zip(pairs, differences, strict=False)],
        list(zip(with_untouched, differences[len(pairs) :], strict=True)),
        growth(found),
        max((len(point.scores) for point in found), default=0),
    )


def _pairs(found: Sequence[Found]) -> list[tuple[Found, Found]]:
    pairs = []
    for second, first in (("filtered", "raw"), ("filtered", "control")):
        for point in (each for each in found if each.kind == second):
            other = next((o for o in found if (o.kind, o.label, o.varied) == (first, point.label, point.varied)), None)
            if other is not None:
                pairs.append((other, point))
    for curve in curves(found).values():
        if len(curve) > 1:
            least, *_, most = sorted(curve, key=lambda point: point.rows)
            pairs.append((least, most))
    beside: dict[tuple[str, str], list[Found]] = {}
    for point in found:
        beside.setdefault((point.kind, point.label), []).append(point)
    return pairs + [(first, other) for first, *others in beside.values() for other in others]


def difference(first: dict[int, Scores], second: dict[int, Scores]) -> Difference:
    """Second against first, on the questions that all of them have answered; by the seeds that both have, if there are such.

    Args:
        first, second: scores by seed.
    """
    both = [seed for seed in first if seed in second]
    a = [first[seed] for seed in both or first]
    b = [second[seed] for seed in both or second]
    rows = aligned([*a, *b]).values()
    return compare([row[: len(a)] for row in rows], [row[len(a) :] for row in rows])


def standing(found: Difference) -> str:
    """A point against the untouched model, in a few words."""
    if not found.significant:
        return "not told apart"
    points = f"{100 * found.estimate:+.1f} points"
    return points if found.estimate > 0 else f"below: {points}"


def growth(found: Sequence[Found]) -> dict[str, Continued]:
    """What each curve of several sizes would do beyond its data."""
    told = {}
    for name, curve in curves(found).items():
        by_rows = {point.rows: point for point in curve}
        if len(by_rows) > 1:
            shared = list(aligned([scores for point in by_rows.values() for scores in point.scores.values()]).values())
            scores, start = {}, 0
            for rows, point in by_rows.items():
                end = start + len(point.scores)
                scores[rows], start = [row[start:end] for row in shared], end
            if len(shared) > 1:
                told[name] = continued(scores)
    return told


def sentences(verdicts: Verdicts) -> list[str]:
    """Everything that a sweep says: what is below the untouched model first."""
    below = [(point, each) for point, each in verdicts.untouched if each.significant and each.estimate < 0]
    said = [f"below the untouched model: {in_words(each, UNTOUCHED, named(point))}" for point, each in below]
    said += [
        in_words(each, named(first, first.rows != second.rows), named(second, first.rows != second.rows))
        + (" It is of these two models, one seed each." if each.seeds == 1 else "")
        for first, second, each in verdicts.pairs
    ]
    above = [each for _, each in verdicts.untouched if each.significant and each.estimate > 0]
    if above:
        said.append(f"above the untouched model: {len(above)} of {len(verdicts.untouched)} points")
    alike = [f"{named(point)} ({in_points(each)})" for point, each in verdicts.untouched if not each.significant]
    if alike:
        said.append(f"not told apart from the untouched model: {'; '.join(alike)}")
    said += [f"{name}: {gain_in_words(each)}" for name, each in verdicts.growth.items()]
    count = len(verdicts.pairs) + len(verdicts.untouched)
    if count > 1:
        said.append(
            f"{count} comparisons were judged together: their p-values are adjusted by Holm's rule, so that one is falsely called"
            " significant in at most 5 % of sweeps. Intervals are of each comparison by itself."
        )
    if verdicts.seeds == 1:
        said.append(ONE_SEED)
    return said


def named(point: Found, with_rows: bool = False) -> str:
    """``filtered, 128``; with its rows where the label does not say them."""
    count = f" ({point.rows} rows)" if with_rows and point.label != str(point.rows) else ""
    return f"{point.name}, {point.label}{count}"


def show(directory: Path) -> None:
    """Print the curves of a sweep and what they say."""
    found = points(directory)
    verdicts = judge(found)
    labels = list(dict.fromkeys(point.label for point in found))
    names = list(curves(found))
    cells = {(point.name, point.label): point.shown + _marked(verdicts.beside_untouched(point)) for point in found}
    console.table(
        "Accuracy by training rows (mean over seeds, 95 % interval over questions and seeds)",
        ("rows", *names),
        [(label, *(cells.get((name, label), "–") for name in names)) for label in labels],
    )
    for line in sentences(verdicts):
        console.say(f"- {line}")
    for path, damaged in faults(directory).items():
        damage.say(damaged, path)
    for name, why in failures(read_state(directory), directory).items():
        console.say(f"failed: {name}: {why}", style="bold red")


def _marked(standing: str) -> str:
    return ", below untouched" if standing.startswith("below") else ""
