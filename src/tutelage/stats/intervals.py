"""Intervals of one accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from tutelage.stats.quantiles import root, student_quantile


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
    Student's quantile by problems stands in place of the normal one.

    Args:
        correct: for each problem, how many of its `samples` responses are correct.
    """
    problems, total = len(correct), sum(correct)
    if problems == 0:
        return 0.0, 1.0
    share = total / (problems * samples)
    if samples == 1 or problems == 1 or not 0 < share < 1:
        return wilson_interval(share * problems, problems, confidence)
    squares = sum(count * count for count in correct)
    variance = (squares * problems - total * total) / (problems * (problems - 1) * samples**2) / problems
    effective = max(_effective(share, variance, problems * samples), float(problems))
    return _students_wilson(share, effective, problems - 1, confidence)


def crossed_interval(scores: Sequence[Sequence[float]], confidence: float = 0.95) -> tuple[float, float]:
    """An interval of the mean score over questions and seeds, each seed being one model that answers all questions.

    One seed that answers each question once has Wilson's interval. All others have Wilson's interval at the effective number of
    trials: p(1 − p) over the variance of the mean over questions and seeds (`variance_of_mean`), with Student's quantile in place of
    the normal one.

    Args:
        scores: for each question, its score (0 to 1) by each seed.
    """
    questions = len(scores)
    if questions == 0:
        return 0.0, 1.0
    seeds = len(scores[0])
    share = math.fsum(map(math.fsum, scores)) / (questions * seeds)
    single = all(score in (0, 1) for row in scores for score in row)
    if (single and seeds == 1) or questions == 1 or not 0 < share < 1:
        return wilson_interval(share * questions, questions, confidence)
    variance, freedom = variance_of_mean(scores)
    answers = questions * seeds
    effective = _effective(share, variance, answers) if single or not variance else share * (1 - share) / variance
    return _students_wilson(share, effective, freedom, confidence)


def _effective(share: float, variance: float, answers: int) -> float:
    """The number of independent trials whose share has this variance; as many as there are answers at most."""
    return min(share * (1 - share) / variance, float(answers)) if variance else float(answers)


def _students_wilson(share: float, trials: float, freedom: float, confidence: float) -> tuple[float, float]:
    """Wilson's interval with Student's quantile: as of fewer trials with the normal one."""
    ratio = NormalDist().inv_cdf((1 + confidence) / 2) / student_quantile((1 + confidence) / 2, freedom)
    trials *= ratio**2
    return wilson_interval(share * trials, trials, confidence)


def variance_of_mean(scores: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The variance of the mean over questions and seeds, both drawn at random, and its degrees of freedom.

    It is the sum of two parts: the variance of the questions' means over the number of questions, and the variance of the seeds'
    means over the number of seeds. The interaction of question and seed counts in both, so the sum is rather too large. One seed
    has no second part: nothing is known of others.
    """
    questions, seeds = len(scores), len(scores[0])
    parts = [(variance_of([math.fsum(row) / seeds for row in scores]) / questions, questions - 1)]
    if seeds > 1:
        parts.append(
            (variance_of([math.fsum(row[seed] for row in scores) / questions for seed in range(seeds)]) / seeds, seeds - 1)
        )
    return sum_of_variances(parts)


def sum_of_variances(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The sum of independent (variance, degrees of freedom), and its own degrees of freedom (Satterthwaite 1946)."""
    if len(parts) == 1:
        return parts[0]
    total = math.fsum(variance for variance, _ in parts)
    if not total:
        return 0.0, min(freedom for _, freedom in parts)
    return total, total**2 / math.fsum(variance**2 / freedom for variance, freedom in parts)


def variance_of(values: Sequence[float]) -> float:
    """The variance of two values or more, without bias."""
    centre = math.fsum(values) / len(values)
    return math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1)


def exact_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a proportion (Clopper & Pearson 1934): it leaves out the shares that the binomial test rejects."""
    import mpmath

    def at_most(count: int, share: float) -> float:
        """The chance of at most `count` successes."""
        return 1.0 - float(mpmath.betainc(count + 1, trials - count, 0, share, regularized=True)) if count < trials else 1.0

    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else root(lambda share: 1 - at_most(successes - 1, share) - tail, 0.0, 1.0)
    high = 1.0 if successes == trials else root(lambda share: at_most(successes, share) - tail, 0.0, 1.0)
    return low, high
