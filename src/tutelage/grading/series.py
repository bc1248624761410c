"""Infinite sums and products, integrals and limits as numbers: each is calculated in two ways, and counts where these agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpmath.ctx_mp import MPContext

from tutelage.grading.work import TooLarge

Value = Any
Function = Callable[[Value], Value]
DIGITS, FEW_DIGITS = 35, 20
AGREEMENT = 18
"""Digits that are calculated; digits to which the two ways must agree, and to which the value is compared."""


class Unknown(ArithmeticError):
    """No value was found that can be trusted."""


class Divergent(ArithmeticError):
    """There is no value."""


def infinite(mp: MPContext, name: str, term: Function, start: int) -> Value:
    """The sum or product of term(start), term(start + 1), …: extrapolated from two places on."""
    if abs(term(mp.mpf(start + 1_000)) - (name == "prod")) > 0.3:
        raise Divergent("its terms do not vanish")
    extrapolated = mp.nsum if name == "sum" else mp.nprod
    with mp.workdps(DIGITS):
        found = extrapolated(term, [start, mp.inf])
        first = [term(mp.mpf(index)) for index in range(start, start + 5)]
        tail = extrapolated(term, [start + 5, mp.inf])
        return _agreed(mp, found, mp.fsum([*first, tail]) if name == "sum" else mp.fprod([*first, tail]))


def integral(mp: MPContext, body: Function, low: Value, high: Value) -> Value:
    """By tanh-sinh, which says how far off it may be; an oscillating tail by its half waves."""
    with mp.workdps(DIGITS):
        try:
            value, error = mp.quad(body, [low, high], error=True, maxdegree=7)
        except (ArithmeticError, TooLarge):
            value, error = mp.zero, mp.inf
        if error < mp.mpf(10) ** -(AGREEMENT + 2) * max(1, abs(value)):
            return value
    if high != mp.inf or mp.isinf(low):
        raise Unknown("the integral does not converge quickly")
    with mp.workdps(FEW_DIGITS):
        waves = [mp.quadosc(body, [low, mp.inf], omega=omega) for omega in (1, 2)]
    return _agreed(mp, waves[0], waves[1], FEW_DIGITS - 6)


def limit(mp: MPContext, body: Function, at: Value) -> Value:
    """From both sides of a point; at infinity, along two sequences. The function must come close to it."""
    with mp.workdps(FEW_DIGITS + 5):
        sign = 1 if at > 0 else -1
        if mp.isinf(at):
            near = [body(sign * mp.mpf(10) ** 8 * factor) for factor in (1, mp.sqrt(2))]
        else:
            near = [body(at + mp.mpf(10) ** -8 * side) for side in (1, -1)]
        if max(map(abs, near)) > 10**6:
            raise Divergent("it grows without a bound")
        if abs(near[0] - near[1]) > 0.01 * max(1, abs(near[0])):
            raise Divergent("it comes close to two values")
        if mp.isinf(at):
            found = [mp.limit(lambda x, factor=factor: body(sign * factor * x), mp.inf) for factor in (1, 3)]
        else:
            found = [mp.limit(body, at, direction=direction) for direction in (1, -1)]
    if any(abs(close - value) > 0.001 * max(1, abs(value)) for close, value in zip(near, found, strict=True)):
        raise Unknown("it is not close to what was extrapolated")
    return _agreed(mp, found[0], found[1], FEW_DIGITS - 6)


def _agreed(mp: MPContext, first: Value, second: Value, digits: int = AGREEMENT + 1) -> Value:
    if not (mp.isfinite(first) and mp.isfinite(second)) or abs(first - second) > mp.mpf(10) ** -digits * max(1, abs(first)):
        raise Unknown("two ways to calculate it do not agree")
    return first
