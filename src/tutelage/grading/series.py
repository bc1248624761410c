"""Infinite sums and products, integrals and limits as numbers: each is calculated in two ways, and counts where these agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpmath.ctx_mp import MPContext

from tutelage.grading.work import TooLarge

Value = Any
Function = Callable[[Value], Value]
AGREEMENT = 20
"""Digits to which the two ways must agree, and to which the value is compared."""


class Unknown(ArithmeticError):
    """No value was found that can be trusted."""


def infinite(mp: MPContext, name: str, term: Function, start: int) -> Value:
    """The sum or product of term(start), term(start + 1), …: extrapolated from two places on."""
    extrapolated, join = (mp.nsum, mp.fsum) if name == "sum" else (mp.nprod, mp.fprod)
    first = extrapolated(term, [start, mp.inf])
    second = join([term(mp.mpf(index)) for index in range(start, start + 5)])
    tail = extrapolated(term, [start + 5, mp.inf])
    return _agreed(mp, first, second + tail if name == "sum" else second * tail)


def integral(mp: MPContext, body: Function, low: Value, high: Value) -> Value:
    """By tanh-sinh, which says how far off it may be; an oscillating tail by its half waves."""
    try:
        value, error = mp.quad(body, [low, high], error=True, maxdegree=7)
    except (ArithmeticError, TooLarge):
        value, error = mp.zero, mp.inf
    if error < mp.mpf(10) ** -(AGREEMENT + 2) * max(1, abs(value)):
        return value
    if high != mp.inf or mp.isinf(low):
        raise Unknown("the integral does not converge quickly")
    values = [mp.quadosc(body, [low, mp.inf], omega=omega) for omega in (1, 2)]
    return _agreed(mp, *values)


def limit(mp: MPContext, body: Function, at: Value) -> Value:
    """From both sides of a point; at infinity, along two sequences."""
    if mp.isinf(at):
        sign = 1 if at > 0 else -1
        found = [mp.limit(lambda x: body(sign * x), mp.inf), mp.limit(lambda x: body(sign * 3 * x), mp.inf)]
    else:
        found = [mp.limit(body, at, direction=direction) for direction in (1, -1)]
    return _agreed(mp, *found, digits=14)


def _agreed(mp: MPContext, first: Value, second: Value, digits: int = AGREEMENT + 1) -> Value:
    if not (mp.isfinite(first) and mp.isfinite(second)) or abs(first - second) > mp.mpf(10) ** -digits * max(1, abs(first)):
        raise Unknown("two ways to calculate it do not agree")
    return first
