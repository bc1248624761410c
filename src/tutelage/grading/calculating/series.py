"""Infinite sums and products, integrals and limits as numbers: each is calculated in two ways, and counts where these agree."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import comb
from typing import Any

from mpmath.ctx_mp import MPContext

from tutelage.grading.calculating.work import TooLarge

Value = Any
Function = Callable[[Value], Value]
DIGITS, FEW_DIGITS = 35, 18
AGREEMENT = 16
"""Digits that are calculated of an integral; digits to which two ways must agree. Values are compared to 14 digits."""
TERMS = 28
"""Terms that a sum is extrapolated from."""
FAR = 1_000
"""How far out terms tell whether a sum converges."""


class Unknown(ArithmeticError):
    """No value was found that can be trusted."""


class Divergent(ArithmeticError):
    """There is no value."""


def infinite(mp: MPContext, name: str, term: Function, start: int) -> Value:
    """The sum or product of term(start), term(start + 1), …: extrapolated from two places on."""
    neutral = int(name == "prod")
    far = [term(mp.mpf(start + step)) - neutral for step in (FAR, FAR + 1, 2 * FAR)]
    if abs(far[0]) > 0.3:
        raise Divergent("its terms do not vanish")
    if mp.re(far[0] * far[1]) > 0 and abs(far[2]) > 0.498 * abs(far[0]):  # as those of 1 + 1/2 + 1/3 + … do
        if neutral and mp.re(far[0]) < 0:
            return mp.zero
        raise Unknown("its terms vanish too slowly")
    totals: list[Value] = []
    total = mp.mpf(neutral)
    for stride in (1, 8):  # the second for terms that vanish like powers of 0.9
        for index in range(start + len(totals), start + stride * (TERMS + 5)):
            total = total * term(mp.mpf(index)) if neutral else total + term(mp.mpf(index))
            totals.append(total)
        if (value := _limit_of(mp, totals[stride - 1 :: stride], start)) is not None:
            return value
    return _known(None)


def _limit_of(mp: MPContext, totals: list[Value], start: int) -> Value | None:
    """The limit of partial sums, if it is the same without the first five."""
    return _agreed(mp, _extrapolated(mp, totals[:TERMS], start), _extrapolated(mp, totals[5:], start + 5))


def _extrapolated(mp: MPContext, totals: list[Value], first: int) -> Value:
    """The limit of partial sums, by Levin's u-transform: for sums that converge like powers, and like geometric ones."""
    steps = [after - before for before, after in pairwise(totals)]
    if not all(steps):
        return mp.nan if any(steps[steps.index(0) :]) else totals[-1]
    top = bottom = mp.zero
    for index, step in enumerate(steps):
        weight = (-1) ** index * comb(len(steps) - 1, index) * mp.mpf(index + max(first, 0) + 1) ** (len(steps) - 3) / step
        top, bottom = top + weight * totals[index + 1], bottom + weight
    return top / bottom if bottom else mp.nan


def integral(mp: MPContext, body: Function, low: Value, high: Value) -> Value:
    """By Gauss and Legendre, else by tanh-sinh: both say how far off they may be. An oscillating tail goes by its half waves."""
    first = ("gauss-legendre", 4, DIGITS) if mp.isfinite(low) and mp.isfinite(high) else ("tanh-sinh", 6, FEW_DIGITS)
    for method, degree, digits in (first, ("tanh-sinh", 7, DIGITS)):
        with mp.workdps(digits):
            try:
                value, error = mp.quad(body, [low, high], method=method, error=True, maxdegree=degree)
            except (ArithmeticError, TooLarge):
                continue
            if error < mp.mpf(10) ** -AGREEMENT * max(1, abs(value)):
                return value
    if high != mp.inf or mp.isinf(low):
        raise Unknown("the integral does not converge quickly")
    total, totals = mp.zero, []
    with mp.workdps(DIGITS):
        for wave in range(TERMS + 5):
            bounds = [low + wave * mp.pi, low + (wave + 1) * mp.pi]
            total += mp.quad(body, bounds, method="gauss-legendre", maxdegree=4)
            totals.append(total)
        return _known(_limit_of(mp, totals, 1))


def limit(mp: MPContext, body: Function, at: Value) -> Value:
    """From both sides of a point; at infinity, along two sequences. The function must come close to it."""
    sign = 1 if at > 0 else -1

    def near(step: Value, side: int) -> Value:
        """The function a step beside the point; at infinity, at one over the step."""
        return body(sign / step if side > 0 else sign * mp.sqrt(2) / step) if mp.isinf(at) else body(at + side * step)

    if all(0 < abs(near(step, side)) <= 2 * step for step in (mp.mpf(10) ** -8, mp.mpf(10) ** -10) for side in (1, -1)):
        return mp.zero  # (sin x)/x far out
    close = [near(mp.mpf(10) ** -8, side) for side in (1, -1)]
    if max(map(abs, close)) > 10**6:
        raise Divergent("it grows without a bound")
    if abs(close[0] - close[1]) > 0.01 * max(1, abs(close[0])):
        raise Divergent("it comes close to two values")
    found = [_at_zero([near(mp.mpf(2) ** -power, side) for power in range(5, 19)]) for side in (1, -1)]
    if any(abs(value - extrapolated) > 0.001 * max(1, abs(extrapolated)) for value, extrapolated in zip(close, found, strict=True)):
        raise Unknown("it is not close to what was extrapolated")
    return _known(_agreed(mp, found[0], found[1]))


def _at_zero(values: list[Value]) -> Value:
    """The value at 0 of a smooth function that has these at steps halved each time, by the polynomial through them."""
    for order in range(1, len(values)):
        values = [after + (after - before) / (2**order - 1) for before, after in pairwise(values)]
    return values[0]


def _agreed(mp: MPContext, first: Value, second: Value) -> Value | None:
    """The value, if two ways to calculate it agree."""
    finite = mp.isfinite(first) and mp.isfinite(second)
    return first if finite and abs(first - second) <= mp.mpf(10) ** -AGREEMENT * max(1, abs(first)) else None


def _known(value: Value | None) -> Value:
    if value is None:
        raise Unknown("two ways to calculate it do not agree")
    return value
