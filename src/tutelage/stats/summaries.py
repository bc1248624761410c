"""A mean and a histogram."""

from __future__ import annotations

import math
from collections.abc import Mapping


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
