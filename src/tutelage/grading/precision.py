"""Numbers to many digits, and when two of them are the same."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from mpmath.ctx_mp import MPContext

DIGITS = 50
MANY_DIGITS = 1_000

Value = Any
"""A Fraction, or a real or complex number of mpmath."""


class Undefined(ArithmeticError):
    """The expression has no value here (a division by zero, a matrix where a number should be)."""


def _context(digits: int) -> MPContext:
    context = MPContext()
    context.dps = digits
    return context


CONTEXTS = {digits: _context(digits) for digits in (DIGITS, MANY_DIGITS)}


def as_mpf(number: Value, digits: int = DIGITS) -> Value:
    """A rational number with that many digits; another as it is."""
    return CONTEXTS[digits].mpf(number.numerator) / number.denominator if isinstance(number, Fraction) else number


def close(a: Value, b: Value, digits: int = DIGITS) -> bool:
    """Equal: exactly if both are rational, otherwise to 80 % of the digits that were computed."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    mp, x, y = CONTEXTS[digits], as_mpf(a, digits), as_mpf(b, digits)
    if mp.isinf(x) or mp.isinf(y):
        return bool(x == y)
    tolerance = mp.mpf(10) ** (-int(digits * 0.8))
    return bool(abs(x - y) <= tolerance * max(abs(x), abs(y)))


def both_vanish(a: Value, b: Value, digits: int) -> bool:
    """The difference is nothing but what rounding leaves of digits that cancelled."""
    mp, x, y = CONTEXTS[digits], as_mpf(a, digits), as_mpf(b, digits)
    return bool(abs(x - y) < mp.mpf(10) ** (-int(digits * 0.9)))


def is_finite(a: Value) -> bool:
    return isinstance(a, Fraction) or not CONTEXTS[DIGITS].isinf(a)


def is_real(a: Value) -> bool:
    """A real number, up to the digits that were computed."""
    if isinstance(a, Fraction) or not hasattr(a, "_mpc_"):
        return True
    return bool(abs(a.imag) <= abs(a.real) * CONTEXTS[DIGITS].mpf(10) ** -35)
