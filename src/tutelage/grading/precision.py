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


def alike(*numbers: Value, digits: int = DIGITS) -> list[Value]:
    """All of them exact if they are, otherwise all of mpmath: the two do not calculate with each other."""
    exact = all(isinstance(number, Fraction) for number in numbers)
    return list(numbers) if exact else [as_mpf(number, digits) for number in numbers]


def close(a: Value, b: Value, digits: int = DIGITS) -> bool:
    """Equal: exactly if both are rational, otherwise to 80 % of the digits that were computed."""
    x, y = alike(a, b, digits=digits)
    if isinstance(x, Fraction) or not (is_finite(x) and is_finite(y)):
        return bool(x == y)
    return bool(abs(x - y) <= CONTEXTS[digits].mpf(10) ** -int(digits * 0.8) * max(abs(x), abs(y)))


def nearly(a: Value, b: Value, digits: int = DIGITS) -> bool:
    """Close, or with a difference that is nothing but what rounding leaves of digits that cancelled."""
    if close(a, b, digits):
        return True
    x, y = alike(a, b, digits=digits)
    return not isinstance(x, Fraction) and bool(abs(x - y) <= CONTEXTS[digits].mpf(10) ** -int(digits * 0.9))


def is_finite(a: Value) -> bool:
    return isinstance(a, Fraction) or not CONTEXTS[DIGITS].isinf(a)


def is_real(a: Value) -> bool:
    """A real number, up to the digits that were computed."""
    if isinstance(a, Fraction) or not hasattr(a, "_mpc_"):
        return True
    return bool(abs(a.imag) <= abs(a.real) * CONTEXTS[DIGITS].mpf(10) ** -35)
