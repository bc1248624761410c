"""The layers that read mathematics: our own reader and comparison, then Math-Verify for what the reader does not know.

This runs in a worker process under limits (`worker`); nothing here may be called on an answer in the owner's process.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import pkgutil
import re
from fractions import Fraction
from functools import cache
from typing import Any

from tutelage.grading import compare
from tutelage.grading.expressions import is_scalar
from tutelage.grading.reader import read
from tutelage.grading.tree import Node, TooLarge, Unreadable

_WHOLLY_MATHEMATICS = re.compile(
    r"(?:\\(?!text|mbox|mathrm|hbox)[A-Za-z]+|\\[^A-Za-z]|[A-Za-z](?![A-Za-z]{2})|d[a-z]|[^A-Za-z\\'])*"
)
"""No words (Math-Verify multiplies their letters) and no quotation marks."""
_WORTH_ASKING = re.compile(r"\\(?:sum|prod|i*int|oint|lim|frac\s*\{\s*d|begin|cup|cap|setminus|overline|binom)(?![A-Za-z])")
"""What our reader does not evaluate, or not in all its forms."""


_THOUSANDS_ONLY = re.compile(r"[-+$\\\s]*\d{1,3}(?:,\d{3})+(?![\d,])(?!\s*,)|.*,0\d")
"""One grouped number, or a group that no list would hold (10,000; 1,050): its commas do not separate."""


def decide(gold: str, answer: str) -> tuple[bool | None, str, str]:
    """(equal, layer, why) of two normalised answers; equal is None when a limit was met."""
    try:
        verdict = _by_reading(gold, answer)
    except (TooLarge, RecursionError) as error:
        return None, "limit", str(error)[:200]
    if verdict is not None:
        return verdict
    if not all(_WHOLLY_MATHEMATICS.fullmatch(text) for text in (gold, answer)) or not _WORTH_ASKING.search(gold + answer):
        return False, "unreadable", f"not read whole: {gold[:80]} or {answer[:80]}"
    if (refusal := _too_costly(gold) or _too_costly(answer)) is not None:
        return None, "limit", refusal
    return _math_verify(gold, answer)


def _by_reading(gold: str, answer: str) -> tuple[bool, str, str] | None:
    """The verdict of our own reading; None if one side cannot be read, or holds what is only compared by its parts.

    A comma between three digits is first read as a thousands separator, then (unless that made two single numbers) as a comma.
    """
    layer = "structure"
    for thousands in (True, False):
        try:
            nodes = read(gold, thousands, trusted=True), read(answer, thousands)
        except Unreadable:
            if thousands and "," in gold + answer:
                continue
            return None
        layer = "algebra" if all(is_scalar(node) for node in nodes) else "structure"
        if compare.equal(*nodes):
            return True, layer, ""
        if layer == "algebra" or "," not in gold + answer or any(_THOUSANDS_ONLY.match(text) for text in (gold, answer)):
            break
    if any(compare.has_opaque(node) for node in nodes):
        return None
    if layer == "structure" and _decimal_comma(gold, answer, nodes):
        return True, "exact", ""
    return False, layer, "not equal"


def _decimal_comma(gold: str, answer: str, nodes: tuple[Node, Node]) -> bool:
    """1,5 = 1.5, where the comma cannot separate thousands and the other side is a single number."""
    for text, other in ((gold, nodes[1]), (answer, nodes[0])):
        if re.fullmatch(r"-?\d+,\d+", text) and is_scalar(other):
            return compare.equal(
                Node("number", (), abs(Fraction(text.replace(",", ".")))), _negated_if(other, text.startswith("-"))
            )
    return False


def _negated_if(node: Node, negative: bool) -> Node:
    return Node("negate", (node,)) if negative else node


def _too_costly(text: str) -> str | None:
    """What must not reach Math-Verify, which evaluates it whatever it costs."""
    if re.search(r"\^\s*\{?\s*\(?\s*-?\d{5,}", text):
        return "an exponent has over four digits"
    if re.search(r"\d\s*[)}]*\s*\^\s*[{(]*\s*-?\d+\s*[)}]*\s*\^", text):
        return "a tower of powers"
    if re.search(r"\d{4,}\s*[)}\]]*\s*!|\\binom\s*\{?\s*\d{4,}", text):
        return "a factorial or binomial of a number over 1,000"
    return None


def _math_verify(gold: str, answer: str) -> tuple[bool, str, str]:
    """(equal, layer, why): Math-Verify's verdict on two texts, if its parser accepts them whole."""
    trees = []
    for text in (gold, answer):
        try:
            trees.append(_parse(text))
        except (MemoryError, RecursionError):
            raise
        except Exception:  # its parser raises bare Exceptions for what its grammar does not know
            return False, "unreadable", f"not read whole: {text[:80]}"
    from math_verify import verify

    equal = verify(trees[0], trees[1], timeout_seconds=None, allow_set_relation_comp=True, raise_on_error=True)
    if equal and not _same_size(*trees):
        return False, "math-verify", "not equal beyond the digits that Math-Verify compares"
    return bool(equal), "math-verify", "" if equal else "not equal"


def _parse(text: str) -> Any:
    """Math-Verify's own LaTeX parser on the whole text, with numbers made by constructors instead of sympy's evaluation of text."""
    converter = _converter()
    parser = converter.create_parser(text)
    parser.math()
    if parser.getCurrentToken().type != -1:
        raise Unreadable("only a part of the text is mathematics")
    return converter.parse(text)


@cache
def _converter() -> Any:
    from latex2sympy2_extended import latex2sympy2
    from sympy import Rational

    def number(text: str) -> Any:
        return Rational(*Fraction(text.replace(",", "").replace(" ", "")).as_integer_ratio())

    class Converter(latex2sympy2._Latex2Sympy):
        def parse_number(self, text: str) -> Any:
            return number(text)

    latex2sympy2.convert_number = number
    return Converter(is_real=None, config=latex2sympy2.ConversionConfig(lowercase_symbols=False))


def _same_size(gold: Any, answer: Any) -> bool:
    """Two numbers agree in their leading digits too; Math-Verify compares a fixed number of decimals."""
    if not (getattr(gold, "is_number", False) and getattr(answer, "is_number", False)):
        return True
    difference, size = abs((gold - answer).evalf(30)), abs(gold.evalf(30))
    return bool(difference <= size * Fraction(1, 10**12))


WARM_UP = [
    (r"\sqrt{2}", "1"), ("x+1", "x"), (r"\int_0^1 x dx", r"\frac{1}{2}"), (r"\sum_{k=1}^{3} k", "6"), (r"\lim_{x \to 0} x", "0"),
    ("(1,2)", r"\{1,2\}"), ("x<3", "(1,2)"),
]  # fmt: skip


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


def warm_up() -> None:
    """Import and use everything once, so that nothing is loaded when answers are read, and take code from text out of sympy."""
    import sympy.physics.units
    import sympy.polys.rings
    import sympy.sets.handlers
    import sympy.sets.setexpr

    for module in pkgutil.iter_modules(sympy.sets.handlers.__path__):
        importlib.import_module(f"sympy.sets.handlers.{module.name}")

    sympy.polys.rings.MonomialOps = _Monomials
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that its time-outs are off: the worker has its own
    for gold, answer in WARM_UP:
        decide(gold, answer)
        for text in (gold, answer):
            with contextlib.suppress(Exception):
                _math_verify(text, text)
