"""Numbers: exact (`Fraction`) as long as they are rational, otherwise of mpmath, to many digits."""

from __future__ import annotations

import math
from fractions import Fraction
from hashlib import blake2b
from typing import Any

from mpmath.ctx_mp import MPContext
from mpmath.libmp import from_int, from_rational

from tutelage.grading.calculating.work import TooLarge, spend

Value = Any
"""A Fraction, or a real or complex number of mpmath."""
MAX_BITS = 100_000
DIGITS, MANY_DIGITS = 50, 1_000


class Undefined(ArithmeticError):
    """The expression has no value here (a division by zero, a matrix where a number should be)."""


def _context(digits: int) -> MPContext:
    context = MPContext()
    context.dps = digits
    return context


CONTEXTS = {digits: _context(digits) for digits in (DIGITS, MANY_DIGITS)}
_CLOSE = {digits: context.mpf(10) ** -int(digits * 0.8) for digits, context in CONTEXTS.items()}
_NEAR = {digits: context.mpf(10) ** -int(digits * 0.9) for digits, context in CONTEXTS.items()}


def as_mpf(number: Value, digits: int = DIGITS) -> Value:
    """A rational number with that many digits; another as it is."""
    if type(number) is not Fraction:
        return number
    context, top, bottom = CONTEXTS[digits], number.numerator, number.denominator
    return context.make_mpf(from_int(top, context.prec, "n") if bottom == 1 else from_rational(top, bottom, context.prec, "n"))


def alike(*numbers: Value, digits: int = DIGITS) -> list[Value]:
    """All of them exact if they are, otherwise all of mpmath: the two do not calculate with each other."""
    for number in numbers:
        if type(number) is not Fraction:
            return [as_mpf(number, digits) for number in numbers]
    return list(numbers)


def close(a: Value, b: Value, digits: int = DIGITS) -> bool:
    """Equal: exactly if both are rational, otherwise to 80 % of the digits that were computed."""
    x, y = alike(a, b, digits=digits)
    if type(x) is Fraction or not (is_finite(x) and is_finite(y)):
        return bool(x == y)
    return bool(abs(x - y) <= _CLOSE[digits] * max(abs(x), abs(y)))


def nearly(a: Value, b: Value, digits: int = DIGITS) -> bool:
    """Close, or with a difference that is nothing but what rounding leaves of digits that cancelled."""
    if close(a, b, digits):
        return True
    x, y = alike(a, b, digits=digits)
    return type(x) is not Fraction and bool(abs(x - y) <= _NEAR[digits])


def is_finite(a: Value) -> bool:
    return type(a) is Fraction or not CONTEXTS[DIGITS].isinf(a)


def is_real(a: Value) -> bool:
    """A real number, up to the digits that were computed."""
    if type(a) is Fraction or not hasattr(a, "_mpc_"):
        return True
    return bool(abs(a.imag) <= abs(a.real) * CONTEXTS[DIGITS].mpf(10) ** -35)


def hash_of(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def is_integer(number: Value) -> bool:
    return type(number) is Fraction and number.denominator == 1


def small_enough(number: Fraction) -> Fraction:
    bits = number.numerator.bit_length() + number.denominator.bit_length()
    if bits > 2 * MAX_BITS:
        raise TooLarge(f"an exact number of over {MAX_BITS} bits")
    if bits > 1024:
        spend((bits >> 10) ** 2)
    return number


def exact_root(base: Fraction, degree: int) -> Fraction | None:
    """The rational root of a positive rational number, or None."""
    if base < 0 or degree > 64:
        return None
    parts = []
    for number in (base.numerator, base.denominator):
        root = math.isqrt(number) if degree == 2 else round(number ** (1 / degree)) if number < 10**15 else -1
        if root < 0 or root**degree != number:
            return None
        parts.append(root)
    return Fraction(parts[0], parts[1])
