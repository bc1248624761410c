"""Two evaluations of the same questions: the difference of their accuracies, and whether it means anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tutelage.stats.intervals import exact_interval, sum_of_variances, variance_of, variance_of_mean, wilson_interval
from tutelage.stats.quantiles import student_beyond, student_quantile


@dataclass(frozen=True)
class Difference:
    """A difference of two accuracies on the same questions, as shares: its estimate, interval, and p-value (of no difference).

    Attributes:
        exact: whether the p-value is of McNemar's exact test, which needs one answer to each question; else it is by Student's
            distribution.
        seeds: models on each side, the fewer of the two.
        adjusted: the p-value adjusted for the number of comparisons that this is one of (`judged_together`).
        comparisons: that number.
    """

    estimate: float
    low: float
    high: float
    questions: int
    p_value: float
    exact: bool = False
    seeds: int = 1
    confidence: float = 0.95
    adjusted: float | None = None
    comparisons: int = 1

    @property
    def significant(self) -> bool:
        """Whether the p-value says so. Of one comparison, the interval then leaves zero out, too."""
        return (self.p_value if self.adjusted is None else self.adjusted) < 1 - self.confidence


def mcnemar_exact(gained: int, lost: int) -> float:
    """The two-sided p-value of McNemar's exact test (1947) of two evaluations of the same questions.

    Under the hypothesis of no difference, either side is equally likely to be the one that solves a question that only one side
    solves: a binomial test of one half. Questions that both sides solve, or neither, say nothing.

    Args:
        gained, lost: questions that only the second, and only the first evaluation solves.
    """
    if gained < 0 or lost < 0:
        raise ValueError(f"{gained} gained and {lost} lost: counts are not negative")
    count = gained + lost
    tail = sum(math.comb(count, successes) for successes in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**count)


def paired_interval(
    first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], confidence: float = 0.95
) -> tuple[float, float, float, float]:
    """The difference of the mean scores, second − first, on the same questions, by Student's distribution.

    Questions are the units, as are the seeds where a side has several: a seed is one model that answers all questions. Of few
    questions that differ, no more is believed than of a toss of coins: m of them never reject below p = 2^(1 − m).

    Args:
        first, second: for each question, its score by each seed (or a single one). Where both have as many seeds, the seeds are
            pairs too: the n-th of the one belongs to the n-th of the other.

    Returns:
        (difference, low, high, p-value of no difference).
    """
    if len(first) != len(second) or len(first) == 0:
        raise ValueError(f"{len(first)} and {len(second)} questions: the same questions are needed, and at least one")
    changes = [_mean(b) - _mean(a) for a, b in zip(first, second, strict=True)]
    estimate = _mean(changes)
    if len(changes) == 1:
        return estimate, -1.0, 1.0, 1.0
    variance, freedom = _variance_of_change(first, second, changes)
    differing = sum(change != 0 for change in changes)
    least_p = min(1.0, 2.0 ** (1 - differing))
    if variance == 0:  # all questions change alike: as many as may be unlike them
        most = wilson_interval(0, len(changes), confidence)[1]
        low, high, p_value = estimate - most * (1 + estimate), estimate + most * (1 - estimate), least_p
    else:
        error = math.sqrt(variance)
        half = student_quantile((1 + confidence) / 2, freedom) * error
        low, high = estimate - half, estimate + half
        p_value = max(least_p, 2 * student_beyond(abs(estimate) / error, freedom))
    if p_value > 1 - confidence:
        low, high = min(low, 0.0), max(high, 0.0)
    return estimate, max(-1.0, low), min(1.0, high), p_value


def _variance_of_change(
    first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], changes: Sequence[float]
) -> tuple[float, float]:
    """The variance of the mean change over questions and seeds, and its degrees of freedom."""
    if len(first[0]) == len(second[0]):
        return variance_of_mean([[b - a for a, b in zip(*rows, strict=True)] for rows in zip(first, second, strict=True)])
    parts = [(variance_of(changes) / len(changes), len(changes) - 1)]
    for side in (first, second):
        if (seeds := len(side[0])) > 1:
            parts.append((variance_of([_mean(scores) for scores in zip(*side, strict=True)]) / seeds, seeds - 1))
    return sum_of_variances(parts)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def discordant_interval(gained: int, lost: int, questions: int, confidence: float = 0.95) -> tuple[float, float]:
    """An interval of the difference of two accuracies on the same questions. It leaves zero out where McNemar's exact test rejects.

    The difference is d(2g − 1). Only one side solves the share d of the questions, and the second side solves the share g of these.
    The ends of the interval are ends of Wilson's interval of d times ends of the exact interval of g, so it is rather wide.
    """
    differing = gained + lost
    least, most = wilson_interval(differing, questions, confidence)
    if differing == 0:
        return -most, most
    low, high = (2 * share - 1 for share in exact_interval(gained, differing, confidence))
    return low * (least if low > 0 else most), high * (most if high > 0 else least)


def compare(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], confidence: float = 0.95) -> Difference:
    """Two sides on the same questions: for each question, its score by each seed.

    One right or wrong answer of one model each: McNemar's exact test and its interval. All else: Student's interval over questions,
    and over seeds where a side has several.
    """
    if all(len(row) == 1 and row[0] in (0, 1) for row in (*first, *second)) and len(first) == len(second) > 0:
        gained = sum(b[0] > a[0] for a, b in zip(first, second, strict=True))
        lost = sum(b[0] < a[0] for a, b in zip(first, second, strict=True))
        low, high = discordant_interval(gained, lost, len(first), confidence)
        estimate = (gained - lost) / len(first)
        return Difference(estimate, low, high, len(first), mcnemar_exact(gained, lost), True, 1, confidence)
    estimate, low, high, p_value = paired_interval(first, second, confidence)
    return Difference(estimate, low, high, len(first), p_value, False, min(len(first[0]), len(second[0])), confidence)


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p-value adjusted for the number of them (Holm 1979): with all of them below 5 %, one is false in at most 5 % of cases."""
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def judged_together(differences: Sequence[Difference]) -> list[Difference]:
    """The same differences, each judged as one of so many comparisons: by its p-value adjusted by Holm's rule."""
    adjusted = holm([difference.p_value for difference in differences])
    return [replace(each, adjusted=p, comparisons=len(adjusted)) for each, p in zip(differences, adjusted, strict=True)]


def in_words(difference: Difference, first: str = "the first", second: str = "the second") -> str:
    """What a difference says: "B is better than A: +12.5 points [+4.1, +20.3] on the same 64 questions, …", or that it is not
    significant."""
    on = f"{in_points(difference)} on the same {difference.questions} questions"
    of = f", {difference.seeds} seeds" if difference.seeds > 1 else ""
    said = f"{on}{of}, {100 * difference.confidence:.0f} % interval; {_tested(difference)}."
    if not difference.significant:
        return f"not significant: {second} against {first}, {said}"
    return f"{second} is {'better' if difference.estimate > 0 else 'worse'} than {first}: {said}"


def in_points(difference: Difference) -> str:
    """``+12.5 points [+4.1, +20.3]``."""
    return f"{100 * difference.estimate:+.1f} points [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def _tested(difference: Difference) -> str:
    """The p-value, by which test, and what it is among several comparisons."""
    test = "McNemar's exact p" if difference.exact else "p"
    said = f"{test} {_p(difference.p_value)}"
    if difference.adjusted is None or difference.comparisons == 1:
        return said
    return f"{said}, as one of {difference.comparisons} comparisons {_p(difference.adjusted)} (Holm)"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
