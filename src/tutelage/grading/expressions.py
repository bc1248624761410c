"""Are two expressions equal? The same number, or the same function of the same symbols; with one stated tolerance for decimals."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from tutelage.grading.tree import Node, kinds_of, symbols_of
from tutelage.grading.values import (
    DIGITS,
    MANY_DIGITS,
    Undefined,
    as_mpf,
    both_vanish,
    close,
    evaluate,
    is_finite,
    is_real,
    points,
)


def is_scalar(node: Node) -> bool:
    """One expression, and no list, set, relation or matrix anywhere in it."""
    kinds = {kind for kind, _ in kinds_of(node)}
    return not kinds & {"relation", "list", "set", "matrix", "union", "intersection", "setminus", "plusminus"} and not (
        node.kind == "sequence" and len(node.args) > 1
    )


DISCRETE = ("lfloor", "lceil", "floor", "ceil", "binom", "mod", "gcd", "lcm", "sum", "prod")
"""Functions of whole numbers: two of them may agree between the whole numbers and differ there, or the other way round."""


def equal_expressions(gold: Node, answer: Node) -> bool:
    """The same value, or the same function of the same symbols.

    Two readings of a percent (its number, or that over a hundred), of a degree (its number, or that in radians) and of a bare \\log
    (natural, or to base ten) are tried where one side has one.
    """
    for node in (gold, answer):
        if not is_scalar(node):
            return False
    for a, b in _readings(gold, answer):
        if _same_function(a, b, None):
            return True
    has_log = any(value == "log" for node in (gold, answer) for _, value in kinds_of(node))
    return any(
        _rounds_to(gold, answer, base) or (base is not None and _same_function(gold, answer, base))
        for base in ((None, 10) if has_log else (None,))
    )


def _readings(gold: Node, answer: Node) -> list[tuple[Node, Node]]:
    pairs = [(gold, answer)]
    for a, b, flip in ((gold, answer, False), (answer, gold, True)):
        number = _without("percent", a)
        if number is not None and _without("percent", b) is None:
            pairs.append((b, number) if flip else (number, b))
        number = _without("degree", a)
        if number is not None and b.kind != "degree" and any(value == "pi" for _, value in kinds_of(b)):
            radians = Node("divide", (Node("multiply", (number, Node("symbol", (), "pi"))), Node("number", (), Fraction(180))))
            pairs = [(b, radians) if flip else (radians, b)]
    return pairs


def _without(kind: str, node: Node) -> Node | None:
    """The 5 of 5 % and the -5 of -5 %; None if the sign is not there."""
    if node.kind == "negate":
        inner = _without(kind, node.args[0])
        return None if inner is None else Node("negate", (inner,))
    return node.args[0] if node.kind == kind else None


def _same_function(a: Node, b: Node, log_base: int | None) -> bool:
    names = symbols_of(a) | symbols_of(b)
    if not names:
        return _same_constant(a, b, log_base)
    whole = any(kind == "factorial" or value in DISCRETE for node in (a, b) for kind, value in kinds_of(node))
    complex_values = any(node_value == "i" for node in (a, b) for _, node_value in kinds_of(node))
    for real_only in (True, False) if not complex_values else (False,):
        used = 0
        for at in points(names, 30, whole, (a, b)):
            try:
                x, y = evaluate(a, at, log_base=log_base), evaluate(b, at, log_base=log_base)
            except Undefined:
                continue
            if real_only and not (is_real(x) and is_real(y)):
                continue
            if not nearly(x, y):
                return False
            used += 1
            if used == 8:
                break
        if used >= 3:
            return True
    return False


def _same_constant(a: Node, b: Node, log_base: int | None) -> bool:
    """Two numbers: exactly if both are rational; otherwise at 50 digits, and if they agree there or vanish, at 1,000."""
    try:
        for digits in (DIGITS, MANY_DIGITS):
            x, y = (evaluate(node, None, digits, log_base) for node in (a, b))
            if isinstance(x, Fraction) and isinstance(y, Fraction):
                return x == y
            if not close(x, y, digits) and abs(as_mpf(x) - as_mpf(y)) > 10**-40:
                return False
        return close(x, y, MANY_DIGITS) or both_vanish(x, y, MANY_DIGITS)
    except Undefined:
        return False


def constant_factor(a: Node, b: Node) -> Any:
    """The number c with a = c·b at all points, or None."""
    if not is_scalar(a) or not is_scalar(b) or symbols_of(a) != symbols_of(b) or not symbols_of(a):
        return None
    factor, used = None, 0
    for at in points(symbols_of(a), 24, seed=(a, b)):
        try:
            x, y = evaluate(a, at), evaluate(b, at)
        except Undefined:
            continue
        if (x == 0) != (y == 0):
            return None
        if x == 0 or not is_real(x) or not is_real(y):
            continue
        quotient = x / y if isinstance(x, Fraction) and isinstance(y, Fraction) else as_mpf(x) / as_mpf(y)
        if factor is not None and not nearly(quotient, factor):
            return None
        factor, used = quotient, used + 1
        if used == 6:
            break
    return factor if used >= 3 else None


def nearly(a: Any, b: Any) -> bool:
    """Agreement at a point, where digits may have cancelled: exact for rationals, otherwise 40 digits."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    x, y = as_mpf(a), as_mpf(b)
    if not is_finite(x) or not is_finite(y):
        return bool(x == y)
    return bool(abs(x - y) <= 10**-40 * max(abs(x), abs(y)) or abs(x - y) <= 10**-45)


def _rounds_to(gold: Node, answer: Node, log_base: int | None) -> bool:
    """The stated tolerance. A reference written as a decimal with at least three digits is met by an exact answer that has no
    finite decimal and rounds to it; an exact reference is met by a decimal only when that has twelve digits or more, all of them
    right to a unit of the last, as a machine prints a number."""
    if symbols_of(gold) or symbols_of(answer) or (_literal(gold) is None) == (_literal(answer) is None):
        return False
    decimal, exact, digits = (gold, answer, 3) if _literal(gold) is not None else (answer, gold, 12)
    try:
        x, y = evaluate(decimal), evaluate(exact, log_base=log_base)
    except Undefined:
        return False
    if not (is_real(y) and is_finite(y)) or _significant(decimal) < digits or (isinstance(y, Fraction) and _terminates(y)):
        return False
    places = _decimal_places(decimal) or 0
    allowed = Fraction(1 if decimal is answer else Fraction(1, 2), 10**places) * _scale(decimal)
    return bool(abs(as_mpf(x) - as_mpf(y)) <= as_mpf(allowed) * (1 + 10**-9))


def _terminates(number: Fraction) -> bool:
    """A finite decimal writes it."""
    rest = number.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def _literal(node: Node) -> Node | None:
    """The decimal in 3.14, -3.14 and 3.14 \\times 10^5."""
    if node.kind in ("negate", "percent", "degree"):
        return _literal(node.args[0])
    if node.kind == "multiply" and node.args[1].kind == "power" and node.args[1].args[0] == Node("number", (), Fraction(10)):
        return _literal(node.args[0])
    return node if node.kind == "number" and node.places is not None else None


def _decimal_places(node: Node) -> int | None:
    literal = _literal(node)
    return None if literal is None else literal.places


def _significant(node: Node) -> int:
    literal = _literal(node)
    if literal is None or literal.places is None:
        return 0
    return len(str(abs(int(literal.value * 10**literal.places))).lstrip("0"))


def _scale(node: Node) -> Fraction:
    """The power of ten behind the literal."""
    literal = _literal(node)
    value = evaluate(node)
    if literal is None or not literal.value or not isinstance(value, Fraction):
        return Fraction(1)
    return abs(value / literal.value)
