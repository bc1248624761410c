"""Student's distribution, which the standard library lacks, and the root of a monotonous function."""

from __future__ import annotations

import functools
from collections.abc import Callable


def student_beyond(value: float, freedom: float) -> float:
    """The chance that Student's t exceeds a value of zero or more; degrees of freedom may be a fraction."""
    import mpmath

    return float(mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + value * value), regularized=True)) / 2


@functools.lru_cache(maxsize=4096)
def student_quantile(probability: float, freedom: float) -> float:
    """Student's t quantile of a probability above one half; degrees of freedom may be a fraction."""
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
