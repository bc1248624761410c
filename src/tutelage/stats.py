"""Statistics of evaluations, as pure functions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from statistics import NormalDist


def wilson_interval(successes: float, trials: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927, JASA 22:209).

    Stays inside [0, 1] and keeps its coverage at 0 % and 100 %, where the usual ± interval collapses. No trials: (0, 1).
    Effective numbers of trials need not be whole.
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


def problems_for_width(width: float, confidence: float = 0.95) -> int:
    """The fewest problems whose interval is no wider than `width`, whatever the accuracy: it is widest at one half."""
    if not 0 < width < 1:
        raise ValueError(f"an interval of a share is between 0 and 1 wide, not {width}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return max(1, math.ceil((z / width) ** 2 - z * z))  # at one half, the width is z / √(n + z²)


def clustered_interval(correct: Sequence[int], samples: int, confidence: float = 0.95) -> tuple[float, float]:
    """An interval of the mean accuracy over problems of which each was sampled several times.

    Samples of one problem are not independent. So Wilson's interval is taken at the effective number of trials, p(1 − p) over the
    variance of the mean over problems (Korn & Graubard 1998), which lies between the number of problems and that of samples.

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
        variance = math.fsum((value - share) ** 2 for value in means) / (problems - 1) / problems
        effective = min(max(share * (1 - share) / variance, problems), problems * samples) if variance else problems * samples
    return wilson_interval(share * effective, effective, confidence)


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
    """1, 2, 4, … up to a number, and the number itself."""
    return sorted({2**power for power in range(largest.bit_length()) if 2**power <= largest} | {largest})
