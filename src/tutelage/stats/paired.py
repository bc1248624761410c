"""Two evaluations of the same questions: the difference of their accuracies, and whether it means anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.stats.intervals import exact_interval, variance_of_mean, wilson_interval
from tutelage.stats.quantiles import student_quantile


@dataclass(frozen=True)
class Difference:
    """A difference of two accuracies on the same questions, as shares: its estimate and interval; `p_value` by McNemar's exact
    test, None where a question was answered several times. `seeds`: models on each side, the fewer of the two."""

    estimate: float
    low: float
    high: float
    questions: int
    p_value: float | None = None
    seeds: int = 1
    confidence: float = 0.95

    @property
    def significant(self) -> bool:
        """Whether the interval leaves zero out; where there is McNemar's test, it says the same."""
        return self.low > 0 or self.high < 0


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


def paired_bootstrap(
    first: Sequence[Sequence[float]],
    second: Sequence[Sequence[float]],
    confidence: float = 0.95,
    resamples: int = 4000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """The difference of the mean scores, second − first, on the same questions, with its bootstrap percentile interval.

    Questions are drawn with replacement, and within each draw of questions the seeds (columns): a seed is one model that answers
    all questions, so a drawn seed is drawn for all of them. Were it drawn for each question apart, differences between seeds
    would average out over the questions, and the interval would be too narrow (Owen 2007, "The pigeonhole bootstrap").

    Args:
        first, second: for each question, its score by each seed (or a single one). Where both have as many seeds, the seeds are
            pairs too: the n-th of the one belongs to the n-th of the other.

    Returns:
        (difference, low, high).
    """
    import numpy as np

    if len(first) != len(second) or len(first) == 0:
        raise ValueError(f"{len(first)} and {len(second)} questions: the same questions are needed, and at least one")
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError("each question needs a score by each seed")
    random, questions = np.random.default_rng(seed), len(a)

    def drawn(count: int, size: int) -> Any:
        """How often each of `count` is drawn, in `size` resamples: (size, count)."""
        return random.multinomial(count, np.full(count, 1 / count), size=size)

    def means(scores: Any, of_questions: Any, of_seeds: Any) -> Any:
        return ((of_questions @ scores) * of_seeds).sum(-1) / scores.size

    found = []
    for size in _portions(resamples, max(1, 2_000_000 // questions)):
        of_questions = drawn(questions, size)
        of_first = drawn(a.shape[1], size)
        of_second = of_first if a.shape[1] == b.shape[1] else drawn(b.shape[1], size)
        found.append(means(b, of_questions, of_second) - means(a, of_questions, of_first))
    low, high = np.quantile(np.concatenate(found), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(b.mean() - a.mean()), float(low), float(high)


def _portions(total: int, largest: int) -> list[int]:
    return [min(largest, total - start) for start in range(0, total, largest)]


def paired_interval(
    first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], confidence: float = 0.95
) -> tuple[float, float, float]:
    """The difference of the mean scores, second − first, of several models each, with an interval by Student's distribution.

    A bootstrap sees no spread beyond that of the few seeds; Student's quantile allows for how little two or three seeds tell.

    Args:
        first, second: as `paired_bootstrap`, with two seeds at least.
    """
    if len(first[0]) == len(second[0]):
        pairs = [[b - a for a, b in zip(row, other, strict=True)] for row, other in zip(first, second, strict=True)]
        variance, freedom = variance_of_mean(pairs)
    else:
        (v, f), (w, g) = variance_of_mean(first), variance_of_mean(second)
        variance = v + w  # and Welch's degrees of freedom
        freedom = variance**2 / (v**2 / f + w**2 / g) if variance else min(f, g)
    estimate = _mean(second) - _mean(first)
    half = student_quantile((1 + confidence) / 2, freedom) * math.sqrt(variance)
    return estimate, max(-1.0, estimate - half), min(1.0, estimate + half)


def _mean(scores: Sequence[Sequence[float]]) -> float:
    return math.fsum(map(math.fsum, scores)) / (len(scores) * len(scores[0]))


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


def compare(
    first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], confidence: float = 0.95, seed: int = 0
) -> Difference:
    """Two sides on the same questions: for each question, its score by each seed.

    One right or wrong answer of one model each: McNemar's exact test and its interval. Scores of several samples: a paired bootstrap
    over questions. Several models on a side: Student's interval over questions and seeds.
    """
    seeds = min(len(first[0]), len(second[0]))
    if seeds > 1 and len(first) > 1:
        return Difference(*paired_interval(first, second, confidence), len(first), None, seeds, confidence)
    if all(len(row) == 1 and row[0] in (0, 1) for row in (*first, *second)):
        gained = sum(b[0] > a[0] for a, b in zip(first, second, strict=True))
        lost = sum(b[0] < a[0] for a, b in zip(first, second, strict=True))
        low, high = discordant_interval(gained, lost, len(first), confidence)
        estimate = (gained - lost) / len(first)
        return Difference(estimate, low, high, len(first), mcnemar_exact(gained, lost), 1, confidence)
    return Difference(*paired_bootstrap(first, second, confidence, seed=seed), len(first), None, seeds, confidence)


def in_words(difference: Difference, first: str = "the first", second: str = "the second") -> str:
    """What a difference says: "B is better than A: +12.5 points [+4.1, +20.3] on the same 64 questions, …", or that it is not
    significant."""
    points = f"{100 * difference.estimate:+.1f} points [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"
    test = f"; McNemar's exact p {_p(difference.p_value)}" if difference.p_value is not None else ""
    of = f", {difference.seeds} seeds" if difference.seeds > 1 else ""
    on = f"on the same {difference.questions} questions{of}, {100 * difference.confidence:.0f} % interval{test}"
    if not difference.significant:
        return f"not significant: {second} against {first}, {points} {on}."
    return f"{second} is {'better' if difference.estimate > 0 else 'worse'} than {first}: {points} {on}."


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
