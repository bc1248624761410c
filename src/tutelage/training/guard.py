"""Steps that are not applied: what counts as nonsense, and what is written down of it."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from typing import Any

WINDOW, AT_LEAST = 64, 16
"""How many earlier gradient norms a norm is held against; with fewer than the latter nothing is a spike."""
SPREADS = 8.0
"""A spike is also so many standard deviations above the median, by the median absolute deviation of the logarithms."""


class Guard:
    """Knows the gradient norms of the steps before, and says which step is not to be applied.

    Norms are held against their median in logarithms, for they are positive and vary by factors; median and median absolute
    deviation do not move with single outliers (Leys et al. 2013).

    Args:
        spike_ratio: a norm below so many times the median is never a spike; 0: nothing is.
        norms: of the steps so far that were applied, oldest first.
        skipped: how many steps were skipped so far.
    """

    def __init__(self, spike_ratio: float, norms: Iterable[float] = (), skipped: int = 0) -> None:
        self.spike_ratio, self.skipped = spike_ratio, skipped
        self.norms = deque(norms, maxlen=WINDOW)

    @property
    def bound(self) -> float:
        """The largest gradient norm that is no spike."""
        if not self.spike_ratio or len(self.norms) < AT_LEAST:
            return math.inf
        logs = [math.log(max(norm, 1e-30)) for norm in self.norms]
        middle = statistics.median(logs)
        deviation = 1.4826 * statistics.median(abs(value - middle) for value in logs)
        return math.exp(middle + max(math.log(max(self.spike_ratio, 1.0)), SPREADS * deviation))

    def objection(self, loss: float, norm: float) -> str:
        """Why a step is not to be applied; "" if it is, and then its norm counts from here on."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return f"the loss is {loss}, its gradient norm {norm}"
        if norm > self.bound:
            return f"the gradient norm is {norm:.4g}, more than {self.bound:.4g}, the bound that the last {len(self.norms)} steps set"
        self.norms.append(norm)
        return ""

    @staticmethod
    def of_lines(spike_ratio: float, lines: Iterable[dict[str, Any]]) -> Guard:
        """The guard after the steps of a run, by the lines of its metrics."""
        steps = [line for line in lines if line["kind"] == "train"]
        applied = [line["grad_norm"] for line in steps if not line.get("skipped")]
        return Guard(spike_ratio, applied[-WINDOW:], sum(bool(line.get("skipped")) for line in steps))
