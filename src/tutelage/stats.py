"""Statistics of evaluations, as pure functions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any


def wilson_interval(successes: float, trials: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927, JASA 22:209).

    Stays inside [0, 1] and keeps its coverage at 0 % and 100 %, where the usual ± interval collapses. No trials: (0, 1).
    An effective number of trials may be a fraction.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == trials else (centre + half) / scale
    return low, high


def mean(values: list[float]) -> float | None:
    """The arithmetic mean, or None of nothing."""
    return math.fsum(values) / len(values) if values else None


def binned(counts: Mapping[int, int], most: int) -> tuple[int, dict[int, int]]:
    """Counts by value in at most `most` bins: the width of a bin, and the count of each by its least value, empty bins too."""
    low, high = min(counts), max(counts)
    width = max(1, -(-(high - low + 1) // most))
    bins = dict.fromkeys(range(low, high + 1, width), 0)
    for value, count in counts.items():
        bins[low + (value - low) // width * width] += count
    return width, bins


def problems_for_width(width: float, confidence: float = 0.95) -> int:
    """The fewest problems whose interval is no wider than `width`, whatever the accuracy: it is widest at one half."""
    if not 0 < width < 1:
        raise ValueError(f"an interval of a share is between 0 and 1 wide, not {width}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return max(1, math.ceil((z / width) ** 2 - z * z))  # at one half, the width is z / √(n + z²)


def clustered_interval(correct: Sequence[int], samples: int, confidence: float = 0.95) -> tuple[float, float]:
    """An interval of the mean accuracy over problems, where each problem was sampled several times.

    Samples of one problem are not independent. So Wilson's interval is taken at the effective number of trials: p(1 − p) over the
    variance of the mean over problems (Korn & Graubard 1998). It lies between the number of problems and the number of samples.

    Args:
        correct: for each problem, how many of its `samples` responses are correct.
    """
    problems, total = len(correct), sum(correct)
    if problems == 0:
        return 0.0, 1.0
    share = total / (problems * samples)
    effective = float(problems)
    if samples > 1 and problems > 1 and 0 < share < 1:
        means = [count / samples for count in correct]
        variance = _variance(means) / problems
        effective = min(max(share * (1 - share) / variance, problems), problems * samples) if variance else problems * samples
    return wilson_interval(share * effective, effective, confidence)


def crossed_interval(scores: Sequence[Sequence[float]], confidence: float = 0.95) -> tuple[float, float]:
    """An interval of the mean score over questions and seeds, each seed being one model that answers all questions.

    One seed has Wilson's interval. Several seeds have Wilson's interval at the effective number of trials: p(1 − p) over the variance
    of the mean over questions and seeds (`_variance_of_mean`), with Student's quantile in place of the normal one.

    Args:
        scores: for each question, its score (0 to 1) by each seed.
    """
    questions = len(scores)
    if questions == 0:
        return 0.0, 1.0
    seeds = len(scores[0])
    share = math.fsum(map(math.fsum, scores)) / (questions * seeds)
    if seeds == 1 or questions == 1 or not 0 < share < 1:
        return wilson_interval(share * questions, questions, confidence)
    variance, freedom = _variance_of_mean(scores)
    effective = min(share * (1 - share) / variance, float(questions * seeds)) if variance else float(questions * seeds)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    effective *= (z / student_quantile((1 + confidence) / 2, freedom)) ** 2
    return wilson_interval(share * effective, effective, confidence)


def _variance_of_mean(scores: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The variance of the mean over questions and seeds, both drawn at random, and its degrees of freedom (Satterthwaite 1946).

    It is the sum of two parts: the variance of the questions' means over the number of questions, and the variance of the seeds'
    means over the number of seeds. The interaction of question and seed counts in both, so the sum is rather too large.
    """
    questions, seeds = len(scores), len(scores[0])
    of_questions = _variance([math.fsum(row) / seeds for row in scores]) / questions
    of_seeds = _variance([math.fsum(row[seed] for row in scores) / questions for seed in range(seeds)]) / seeds
    total = of_questions + of_seeds
    if not total:
        return 0.0, float(seeds - 1)
    return total, total**2 / (of_questions**2 / (questions - 1) + of_seeds**2 / (seeds - 1))


def student_quantile(probability: float, freedom: float) -> float:
    """Student's t quantile of a probability above one half; degrees of freedom may be a fraction."""
    import mpmath

    def beyond(value: float) -> float:
        return float(mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + value * value), regularized=True)) / 2

    return _root(lambda value: beyond(value) - (1 - probability), 0.0, 1e4)


def exact_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a proportion (Clopper & Pearson 1934): it leaves out the shares that the binomial test rejects."""
    import mpmath

    def at_most(count: int, share: float) -> float:
        """The chance of at most `count` successes."""
        return 1.0 - float(mpmath.betainc(count + 1, trials - count, 0, share, regularized=True)) if count < trials else 1.0

    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else _root(lambda share: 1 - at_most(successes - 1, share) - tail, 0.0, 1.0)
    high = 1.0 if successes == trials else _root(lambda share: at_most(successes, share) - tail, 0.0, 1.0)
    return low, high


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a monotonous function is zero, between two values, by halving."""
    rises = function(low) < function(high)
    for _ in range(60):
        middle = (low + high) / 2
        if (function(middle) < 0) == rises:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _variance(values: Sequence[float]) -> float:
    centre = math.fsum(values) / len(values)
    return math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1)


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """The chance that at least one of k responses is correct, without bias: 1 − C(n − c, k) / C(n, k) (Chen et al. 2021)."""
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def majority_at_k(votes: Sequence[Hashable | None], right: Hashable, k: int) -> float:
    """The chance that a vote among k responses is right (Wang et al. 2023), over disjoint groups of k in their order.

    Args:
        votes: what each response answers; None does not vote.
        right: the correct answer. A tie is decided by lot.
    """
    groups = [votes[start : start + k] for start in range(0, len(votes) - k + 1, k)]
    shares = []
    for group in groups:
        counts = Counter(vote for vote in group if vote is not None)
        best = max(counts.values(), default=0)
        leaders = [vote for vote, count in counts.items() if count == best]
        shares.append(1 / len(leaders) if right in leaders else 0.0)
    return math.fsum(shares) / len(shares)


def powers_of_two(largest: int) -> list[int]:
    """The powers of two up to `largest`, and `largest` itself."""
    return sorted({2**power for power in range(largest.bit_length()) if 2**power <= largest} | {largest})


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
        variance, freedom = _variance_of_mean(pairs)
    else:
        (v, f), (w, g) = _variance_of_mean(first), _variance_of_mean(second)
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
