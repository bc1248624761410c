"""Math-Verify, asked for what our own reader does not evaluate: sums, integrals, limits. Its work is counted and bounded.

This runs in a worker process under limits (`worker`), each comparison in a process of its own: what a comparison costs does not depend
on what sympy remembers of earlier ones.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import pkgutil
import random
import re
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from types import SimpleNamespace
from typing import Any

from tutelage.grading import work
from tutelage.grading.tree import Reply, Unreadable
from tutelage.grading.work import TooLarge

MAX_BITS = 1_000_000
"""Bits of a power that sympy may calculate."""
MAX_FACTORIAL = 20_000
MAX_EXPANDED = 20_000
"""Terms of a power of a sum."""
_MATHEMATICS_ONLY = re.compile(
    r"(?:\\(?!text|mbox|mathrm|hbox)[A-Za-z]+|\\[^A-Za-z]|[A-Za-z](?![A-Za-z]{2})|d[a-z]|[^A-Za-z\\'])*"
)
"""No words (Math-Verify multiplies their letters) and no quotation marks."""
_WORTH_ASKING = re.compile(r"\\(?:sum|prod|i*int|oint|lim|frac\s*\{\s*d|begin|cup|cap|setminus|overline|binom)(?![A-Za-z])")
"""What our reader does not evaluate, or not in all its forms."""


def refusal(gold: str, answer: str) -> Reply | None:
    """Why Math-Verify is not asked about two normalised answers; None if it is."""
    if not all(_MATHEMATICS_ONLY.fullmatch(text) for text in (gold, answer)) or not _WORTH_ASKING.search(gold + answer):
        return False, "unreadable", f"not read in full: {gold[:80]} or {answer[:80]}"
    if (why := _too_costly(gold) or _too_costly(answer)) is not None:
        return None, "limit", why
    return None


def _too_costly(text: str) -> str | None:
    """What must not reach Math-Verify, which evaluates it whatever it costs."""
    if re.search(r"\^\s*\{?\s*\(?\s*-?\d{5,}", text):
        return "an exponent has over four digits"
    if re.search(r"\d\s*[)}]*\s*\^\s*[{(]*\s*-?\d+\s*[)}]*\s*\^", text):
        return "a tower of powers"
    if re.search(r"\d{4,}\s*[)}\]]*\s*!|\\binom\s*\{?\s*\d{4,}", text):
        return "a factorial or binomial of a number over 1,000"
    return None


def ask(gold: str, answer: str) -> Reply:
    """Math-Verify's verdict on two texts, if its parser accepts both in full."""
    try:
        with work.limited(work.LIBRARY_UNITS), work.counting_calls():
            return _verdict(gold, answer)
    except (TooLarge, RecursionError) as error:
        return None, "limit", str(error)[:200]


def _verdict(gold: str, answer: str) -> Reply:
    trees = []
    for text in (gold, answer):
        try:
            trees.append(_converter().parse(text))
        except (MemoryError, RecursionError, TooLarge):
            raise
        except Exception:  # its parser raises bare Exceptions for what its grammar does not know
            return False, "unreadable", f"not read in full: {text[:80]}"
    from math_verify import verify

    equal = verify(trees[0], trees[1], timeout_seconds=None, allow_set_relation_comp=True, raise_on_error=True)
    if equal and not _same_size(*trees):
        return False, "math-verify", "not equal beyond the digits that Math-Verify compares"
    return bool(equal), "math-verify", "" if equal else "not equal"


def _same_size(gold: Any, answer: Any) -> bool:
    """Two numbers agree in their leading digits too; Math-Verify compares a fixed number of decimals."""
    if not (getattr(gold, "is_number", False) and getattr(answer, "is_number", False)):
        return True
    first, second = gold.evalf(30), answer.evalf(30)
    return bool(abs(first - second) <= abs(first) * Fraction(1, 10**12))


@cache
def _converter() -> Any:
    """Math-Verify's own LaTeX parser for a full text, with numbers made by constructors instead of sympy's evaluation of text."""
    from latex2sympy2_extended import latex2sympy2
    from sympy import Rational

    def number(text: str) -> Any:
        return Rational(*Fraction(text.replace(",", "").replace(" ", "")).as_integer_ratio())

    class Converter(latex2sympy2._Latex2Sympy):
        def create_parser(self, latex_str: str) -> Any:
            parser = super().create_parser(latex_str)
            tree = parser.math()
            if parser.getCurrentToken().type != -1:
                raise Unreadable("only a part of the text is mathematics")
            return SimpleNamespace(math=lambda: tree)

        def parse_number(self, text: str) -> Any:
            return number(text)

    latex2sympy2.convert_number = number
    return Converter(is_real=None, config=latex2sympy2.ConversionConfig(lowercase_symbols=False))


# --- preparing the libraries, once for all comparisons

WARM_UP = [
    (r"\sqrt{2}", "1"), ("x+1", "x"), (r"\int_0^1 x dx", r"\frac{1}{2}"), (r"\sum_{k=1}^{3} k", "6"), (r"\lim_{x \to 0} x", "0"),
    ("(1,2)", r"\{1,2\}"), ("x<3", "(1,2)"),
]  # fmt: skip


@cache
def warm_up() -> None:
    """Import and use everything once, bound what one operation may calculate, and take code made from text out of sympy."""
    import sympy.core.random
    import sympy.physics.units
    import sympy.polys.rings
    import sympy.sets.handlers
    import sympy.sets.setexpr

    for module in pkgutil.iter_modules(sympy.sets.handlers.__path__):
        importlib.import_module(f"sympy.sets.handlers.{module.name}")
    sympy.polys.rings.MonomialOps = _Monomials
    _bound_operations()
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that its time-outs are off: the worker has its own
    for gold, answer in WARM_UP:
        for pair in ((gold, answer), (gold, gold), (answer, answer)):
            with contextlib.suppress(Exception):
                _verdict(*pair)
    random.seed(0)  # numbers that sympy draws are the same in each comparison
    sympy.core.random.seed(0)


def _bound_operations() -> None:
    """Refuse the single operations of sympy that would run for minutes within one call, and let large rationals cost what they cost."""
    import sympy.ntheory.multinomial as multinomial
    from sympy import Integer, Rational, binomial, factorial
    from sympy.external.pythonmpq import PythonMPQ

    def bounded(what: str, owner: Any, name: str, too_large: Callable[..., bool]) -> None:
        original = owner.__dict__[name]
        function = original.__func__ if isinstance(original, classmethod) else original

        def checked(*arguments: Any) -> Any:
            if too_large(*arguments):
                work.stop(f"{what} too large to calculate")
            return function(*arguments)

        setattr(owner, name, classmethod(checked) if isinstance(original, classmethod) else checked)

    def large_power(base: Any, exponent: Any) -> bool:
        bits = max(int(base.p).bit_length(), int(base.q).bit_length())
        return isinstance(exponent, Rational) and abs(exponent.p) * bits > MAX_BITS * exponent.q and bits > 1

    def large_integer(cls: Any, number: Any, *_: Any) -> bool:
        return isinstance(number, Integer) and number.p > MAX_FACTORIAL

    def too_many_terms(variables: Any, exponent: Any) -> bool:
        return math.comb(int(variables) + int(exponent) - 1, int(exponent)) > MAX_EXPANDED

    make_rational = PythonMPQ.__dict__["_new"].__func__

    def weighed_rational(cls: Any, numerator: int, denominator: int) -> Any:
        size = (numerator.bit_length() + denominator.bit_length()) >> 9
        if size:
            work.spend(size * size)
        return make_rational(cls, numerator, denominator)

    PythonMPQ._new = classmethod(weighed_rational)
    bounded("a power", Integer, "_eval_power", large_power)
    bounded("a power", Rational, "_eval_power", large_power)
    bounded("a factorial", factorial, "eval", large_integer)
    bounded("a binomial coefficient", binomial, "eval", large_integer)
    bounded("an expansion", multinomial, "multinomial_coefficients", too_many_terms)


class _Monomials:
    """What sympy's polynomials do with exponents, as plain functions: sympy makes its own from text, by exec."""

    def __init__(self, variables: int) -> None:
        pass

    def mul(self) -> Any:
        return lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True))

    def pow(self) -> Any:
        return lambda a, k: tuple(x * k for x in a)

    def mulpow(self) -> Any:
        return lambda a, b, k: tuple(x + y * k for x, y in zip(a, b, strict=True))

    def ldiv(self) -> Any:
        return lambda a, b: tuple(x - y for x, y in zip(a, b, strict=True))

    def div(self) -> Any:
        return lambda a, b: (
            None if any(x < y for x, y in zip(a, b, strict=True)) else tuple(x - y for x, y in zip(a, b, strict=True))
        )

    def lcm(self) -> Any:
        return lambda a, b: tuple(map(max, a, b))

    def gcd(self) -> Any:
        return lambda a, b: tuple(map(min, a, b))
