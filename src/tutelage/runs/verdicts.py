"""What a sweep's curves say, in words: points beside each other and beside the untouched model, and what more rows would bring.

All comparisons of a sweep are judged together: p-values are adjusted for their number by Holm's rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.runs import damage
from tutelage.runs.reading import Scores, aligned
from tutelage.runs.results import Found, curve_name, curves, failures, faults, points, read_state, table
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
    pairs = [(first, second) for first, second in _pairs(found) if not second.is_trained_with(first)]
    with_untouched = [point for point in found if point.untouched]
    once = [next(each for each in with_untouched if each is point or each.is_trained_with(point)) for point in with_untouched]
    distinct = list({id(each): each for each in once}.values())
    differences = judged_together(
        [
            *(difference(first.scores, second.scores) for first, second in pairs),
            *(difference(point.untouched, point.scores) for point in distinct),
        ]
    )
    of_point = dict(zip(map(id, distinct), differences[len(pairs) :], strict=True))
    return Verdicts(
        [(*pair, each) for pair, each in zip(pairs, differences, strict=False)],
        [(point, of_point[id(first)]) for point, first in zip(with_untouched, once, strict=True)],
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
    count = len(verdicts.pairs) + len({id(each) for _, each in verdicts.untouched})
    if count > 1:
        said.append(
            f"{count} comparisons were judged together: their p-values are adjusted by Holm's rule, so that one is falsely called"
            " significant in at most 5 % of sweeps. Intervals are of each comparison by itself."
        )
    if verdicts.seeds == 1:
        said.append(ONE_SEED)
    return said


def equal_sets(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which points of a design are the same trained model, since their rows and settings are the same; and what a control is.

    Args:
        points: as ``sweep.json`` has them.
    """
    names: dict[str, list[str]] = {}
    of_trial = {point["trial"]: point for point in points}
    for point in points:
        label = "full" if point["size"] is None else point["size"]
        name = f"{curve_name(point['kind'], point['varied'])}, {label}"
        names.setdefault(point["trial"], []).extend([] if name in names.get(point["trial"], ()) else [name])
    said = []
    for trial, alike in names.items():
        rows = of_trial[trial]["rows"]
        if len(alike) > 1:
            said.append(f"{', '.join(alike[:-1])} and {alike[-1]} are the same {rows:,} rows, and trained once ({trial})")
        elif of_trial[trial]["kind"] == "control":
            said.append(f"{alike[0]} is a raw set of {rows:,} rows ({trial})")
    return said


def not_in_the_table(directory: Path, found: Sequence[Found]) -> list[str]:
    """What was asked for and has no accuracy although nothing more will come of it, and why."""
    there = {(point.kind, point.label, tuple(point.varied.items())) for point in found}
    said = []
    for row, point in zip(table(directory), read_state(directory)["points"], strict=True):
        ended = row["status"] in ("failed", "finished, not evaluated")
        if ended and (row["data"], row["size"], tuple(point["varied"].items())) not in there:
            name = f"{curve_name(row['data'], point['varied'])}, {row['size']}"
            said.append(f"not in the table: {name} ({row['trial']}): {row['status']}")
    return said


def of_sweep(directory: Path, found: Sequence[Found], verdicts: Verdicts) -> list[str]:
    """Everything that a sweep says, by its points and what was judged of them."""
    return [
        *sentences(verdicts),
        *equal_sets(read_state(directory)["points"]),
        *not_in_the_table(directory, found),
    ]


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
    for line in of_sweep(directory, found, verdicts):
        console.say(f"- {line}")
    for path, damaged in faults(directory).items():
        damage.say(damaged, path)
    for name, why in failures(read_state(directory), directory).items():
        console.say(f"failed: {name}: {why}", style="bold red")


def _marked(standing: str) -> str:
    return ", below untouched" if standing.startswith("below") else ""
