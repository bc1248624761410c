"""Student's distribution, which the standard library lacks, and the root of a monotonous function."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from statistics import NormalDist

MANY = 10_000
"""Degrees of freedom beyond which Student's distribution is the normal one, with its first corrections."""


def student_beyond(value: float, freedom: float) -> float:
    """The chance that Student's t exceeds a value of zero or more; degrees of freedom may be a fraction."""
    if freedom > MANY:
        return math.erfc(value * (1 - (value * value + 1) / (4 * freedom)) / math.sqrt(2)) / 2
    import mpmath

    return float(mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + value * value), regularized=True)) / 2


@functools.lru_cache(maxsize=4096)
def student_quantile(probability: float, freedom: float) -> float:
    """Student's t quantile of a probability above one half; degrees of freedom may be a fraction."""
    if freedom > MANY:
        z = NormalDist().inv_cdf(probability)
        return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return root(lambda value: student_beyond(value, freedom) - (1 - probability), 0.0, 1e4)


def root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a monotonous function is zero, between two values, by halving."""
    rises = function(low) < function(high)
    for _ in range(60):
        middle = (low + high) / 2
        if (function(middle) < 0) == rises:
            low = middle
        else:
            high = middle
    return (low + high) / 2
