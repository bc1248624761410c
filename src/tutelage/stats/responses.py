"""Several responses to a question: what the best of k, and a vote among k, would be."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence


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
