"""Are two expressions equal? The same number, or the same function of the same symbols; with one stated tolerance for decimals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

from tutelage.grading.calculating.numbers import (
    DIGITS,
    MANY_DIGITS,
    Undefined,
    Value,
    alike,
    as_mpf,
    close,
    hash_of,
    is_finite,
    is_real,
    nearly,
)
from tutelage.grading.calculating.values import evaluate
from tutelage.grading.calculating.work import TooLarge, spend
from tutelage.grading.comparing.quantities import in_base_units
from tutelage.grading.reading.tree import Kind, Node, holds, negated, nodes_of, number, product, symbol, symbols_of

INTEGER_LETTERS = "ijklmnpqrNMK"
_OF_INTEGERS = ("lfloor", "lceil", "floor", "ceil", "binom", "mod", "gcd", "lcm", "sum", "prod")
"""Functions of integers: two of them may agree between the integers and differ there, or the other way round."""
_WITH_KINKS = {"abs", "max", "min", "floor", "ceil", "lfloor", "lceil", "mod", "gcd", "lcm", "binom", "root"}
_NO_SCALARS = (
    Kind.RELATION, Kind.LIST, Kind.SET, Kind.MATRIX, Kind.UNION, Kind.INTERSECTION, Kind.SETMINUS, Kind.PLUSMINUS,
)  # fmt: skip


def is_scalar(node: Node) -> bool:
    """One expression, and no list, set, relation or matrix anywhere in it."""
    return not holds(node, *_NO_SCALARS) and not (node.kind is Kind.SEQUENCE and len(node.args) > 1)


def equal_expressions(gold: Node, answer: Node) -> bool:
    """The same value, or the same function of the same symbols.

    Two readings of a percent (its number, or that over a hundred), of a degree (its number, or that in radians) and of a bare \\log
    (natural, or to base ten) are tried where one side has one.
    """
    if not is_scalar(gold) or not is_scalar(answer):
        return False
    gold, answer = in_base_units(gold, answer)
    if any(_same_function(a, b, None) for a, b in _readings(gold, answer)):
        return True
    bases = (None, 10) if _names(gold, answer) & {"log"} else (None,)
    return any(_rounds_to(gold, answer, base) or (base is not None and _same_function(gold, answer, base)) for base in bases)


def _names(*sides: Node) -> set[str]:
    """The names of all functions and symbols."""
    return set().union(*(side.contents[2] for side in sides))


def _readings(gold: Node, answer: Node) -> list[tuple[Node, Node]]:
    pairs = [(gold, answer)]
    for a, b in ((gold, answer), (answer, gold)):
        inner = _without(Kind.PERCENT, a)
        if inner is not None and _without(Kind.PERCENT, b) is None and b.kind is not Kind.DEGREE:
            pairs.append((inner, b))
        inner = _without(Kind.DEGREE, a)
        if inner is not None and b.kind is not Kind.DEGREE and _names(b) & {"pi", "arctan", "arcsin", "arccos"}:
            radians = Node(Kind.DIVIDE, (product(inner, symbol("pi")), number(180)))
            pairs = [(radians, b)]
    return pairs


def _without(kind: str, node: Node) -> Node | None:
    """The 5 of 5 % and the -5 of -5 %; None if the sign is not there."""
    if node.kind is Kind.NEGATE:
        inner = _without(kind, node.args[0])
        return None if inner is None else negated(inner)
    return node.args[0] if node.kind is kind else None


def points(names: frozenset[str], count: int, integers: bool = False, seed: object = 0, scale: int = 1) -> Iterator[dict[str, Fraction]]:
    """`count` assignments, of one order of size and sign after another; every second one mixes them.

    Args:
        integers: the letters that usually stand for integers (n, k, …) get small positive ones.
        scale: what other numbers are divided by: 2 brings them to where infinite sums converge quickly.
        seed: what is compared: whoever wrote one side cannot know the points without the other.
    """
    ranges = [(0, 1), (2, 9), (-1, 0), (-5, -1), (1, 4), (-9, 9), (-2, 2), (0, 3)]
    drawn_from = hash_of(repr(seed))
    for index in range(count):
        at = {}
        for offset, name in enumerate(sorted(names)):  # |a| + |b| is |a + b| where the signs are alike
            low, high = ranges[(index + 2 * offset * (index % 2)) % len(ranges)]
            drawn = hash_of(f"{index} {name} {drawn_from}")
            if integers and (name[0] in INTEGER_LETTERS or index % 2):
                at[name] = Fraction(1 + drawn % (8 + 2 * index))
            else:
                numerator = low * 99_991 + (high - low) * (drawn % 99_991)
                numerator += (numerator + index + offset) % 2  # odd and even in turn: (-2)^n has the sign of this
                at[name] = Fraction(numerator, 99_991 * scale)
        yield at


def _values(a: Node, b: Node, at: Iterable[dict[str, Fraction]], log_base: int | None = None) -> Iterator[tuple[Value, Value]]:
    """The values of two expressions at the points where both have one, and no number with more digits than are computed."""
    too_large = None
    for point in at:
        try:
            yield evaluate(a, point, log_base=log_base), evaluate(b, point, log_base=log_base)
            too_large = None
        except Undefined:
            continue
        except TooLarge as error:
            spend(0)  # raises where the work is spent
            too_large = error
    if too_large is not None:
        raise too_large


def _same_function(a: Node, b: Node, log_base: int | None) -> bool:
    names = symbols_of(a) | symbols_of(b)
    if not names:
        return _same_constant(a, b, log_base)
    known = _names(a, b)
    approximate = holds(a, Kind.OPAQUE) or holds(b, Kind.OPAQUE)
    of_integers = set(_OF_INTEGERS) - ({"sum", "prod"} if "infty" in known else set())
    kinks = known & _WITH_KINKS
    integers = bool(known & of_integers) or holds(a, Kind.FACTORIAL) or holds(b, Kind.FACTORIAL)
    for real_only in (False,) if "i" in known else (True, False):
        used = 0
        for x, y in _values(a, b, points(names, 30, integers, (a, b), 2 if approximate else 1), log_base):
            if real_only and not (is_real(x) and is_real(y)):
                continue
            if not (close(x, y) or (nearly(x, y) and (_cancels(a) or _cancels(b))) or (approximate and _agree(x, y))):
                return False
            used += 1
            exact = type(x) is Fraction and type(y) is Fraction and not kinks
            if used == (3 if approximate or exact else 8 if kinks else 5):
                break
        if used >= 3:
            far_out = _values(a, b, _far_points(a, b) if kinks else (), log_base)
            return all(nearly(x, y) for x, y in far_out if is_real(x) and is_real(y))
    return False


def _far_points(a: Node, b: Node) -> Iterator[dict[str, Fraction]]:
    """|x - 100| and 100 - x are alike near zero: points around the constants of both, multiples of these, and far ones tell."""
    numbers = (abs(part.value) for side in (a, b) for part in nodes_of(side) if part.kind is Kind.NUMBER)
    constants = sorted({number for number in numbers if 9 < number < 2000})
    summed = holds(a, Kind.OPAQUE) or holds(b, Kind.OPAQUE)  # term by term
    reach = [*constants[:4], Fraction(37), *((Fraction(173), Fraction(811)) if not summed else ())]
    for index in range(6 * len(reach)):
        base, sign = reach[index % len(reach)], -1 if index // len(reach) % 2 else 1
        at = {}
        for name in symbols_of(a) | symbols_of(b):
            drawn = hash_of(f"({index}, {name!r}, 'far')")
            value = base * (1 + drawn % 2) + (drawn // 8 % 3 - 1 if index >= 2 * len(reach) else 0)
            at[name] = abs(value) if name[0] in INTEGER_LETTERS else sign * value
        yield at


def _same_constant(a: Node, b: Node, log_base: int | None) -> bool:
    """Two numbers: exactly if both are rational; otherwise at 50 digits, and if they agree there or vanish, at 1,000."""
    try:
        for digits in (DIGITS, MANY_DIGITS):
            x, y = (evaluate(node, None, digits, log_base) for node in (a, b))
            if type(x) is Fraction and type(y) is Fraction:
                return x == y
            if holds(a, Kind.OPAQUE) or holds(b, Kind.OPAQUE):
                return _agree(x, y)
            if not close(x, y, digits) and abs(as_mpf(x) - as_mpf(y)) > 10**-40:
                return False
        if not close(x, y, MANY_DIGITS):
            return (_cancels(a) or _cancels(b)) and nearly(x, y, MANY_DIGITS)
        if abs(as_mpf(x)) > as_mpf(Fraction(10) ** 700) and (holds(a, Kind.ADD) or holds(b, Kind.ADD)):
            raise TooLarge("a sum with more digits than are computed")
        return True
    except Undefined:
        return False


def _cancels(node: Node) -> bool:
    """Terms may cancel in it, and what is left of digits that cancelled is nothing; a product and a power are what they are."""
    return holds(node, Kind.ADD) or any(part.kind is Kind.CALL and part.value != "root" for part in nodes_of(node))


def _agree(x: Value, y: Value) -> bool:
    """To the digits of an integral or limit that was calculated (see `series`)."""
    x, y = as_mpf(x), as_mpf(y)
    return is_finite(x) and is_finite(y) and bool(abs(x - y) <= as_mpf(Fraction(1, 10**14)) * max(1, abs(x)))


def constant_factor(a: Node, b: Node) -> Value | None:
    """The number c with a = c·b at all points, or None."""
    if not is_scalar(a) or not is_scalar(b) or symbols_of(a) != symbols_of(b) or not symbols_of(a):
        return None
    factor, used = None, 0
    for x, y in _values(a, b, points(symbols_of(a), 24, seed=(a, b))):
        if (x == 0) != (y == 0):
            return None
        if x == 0 or not is_real(x) or not is_real(y):
            continue
        x, y = alike(x, y)
        quotient = x / y
        if factor is not None and not nearly(quotient, factor):
            return None
        factor, used = quotient, used + 1
        if used == (3 if type(quotient) is Fraction else 6):
            break
    return factor if used >= 3 else None


def _rounds_to(gold: Node, answer: Node, log_base: int | None) -> bool:
    """The stated tolerance for decimals.

    A reference written as a decimal with three digits, or two decimals, is met by an exact answer without a finite decimal
    that it rounds or cuts. An exact reference is met by a decimal with twelve digits or more that rounds or cuts it. What a machine
    prints of a binary number (16 or 17 digits) is right to 15 digits.
    """
    if symbols_of(gold) or symbols_of(answer):
        return False
    literals = decimal_of(gold), decimal_of(answer)
    if literals[1] is not None and 16 <= _significant(literals[1]) <= 17 and _same_float(gold, answer, log_base):
        return True
    if (literals[0] is None) is (literals[1] is None):
        return False
    literal, decimal, exact, digits = (literals[0], gold, answer, 3) if literals[0] else (literals[1], answer, gold, 12)
    if literal is None or (_significant(literal) < digits and not (literals[0] and (literal.places or 0) > 1 < _significant(literal))):
        return False
    many = MANY_DIGITS if _significant(literal) > DIGITS - 20 else DIGITS
    try:
        x, y = evaluate(decimal), evaluate(exact, None, many, log_base)
    except Undefined:
        return False
    if not (is_real(y) and is_finite(y)) or (type(y) is Fraction and _terminates(y)):
        return False
    scale = abs(x / literal.value) if literal.value and type(x) is Fraction else 1  # the power of ten behind the literal
    x, y = alike(x, y, digits=many)
    return rounded_or_cut(x, y, Fraction(1, 10 ** (literal.places or 0)) * scale)


def rounded_or_cut(decimal: Value, exact: Value, unit: Fraction) -> bool:
    """A decimal whose last digit counts `unit` is the exact number, correctly rounded or cut."""
    half = unit * (1 + Fraction(1, 10**9)) / 2
    if type(exact) is not Fraction:
        unit, half = as_mpf(unit), as_mpf(half)
    return bool(abs(decimal - exact) <= half or (decimal * exact > 0 and 0 <= abs(exact) - abs(decimal) < unit))


def _significant(literal: Node) -> int:
    return len(str(abs(int(literal.value * 10 ** (literal.places or 0)))).lstrip("0"))


def _same_float(gold: Node, answer: Node, log_base: int | None) -> bool:
    """Equal to a few units of the last bit, and no integer that those digits do not tell from its neighbours."""
    try:
        x, y = as_mpf(evaluate(answer)), evaluate(gold, log_base=log_base)
    except Undefined:
        return False
    if not (is_real(y) and is_finite(y)) or (type(y) is Fraction and y.denominator == 1 and abs(y) >= 10**15) or y == 0:
        return False
    return bool(abs(x - as_mpf(y)) <= abs(as_mpf(y)) * as_mpf(Fraction(1, 2**50)))


def _terminates(number: Fraction) -> bool:
    """A finite decimal writes it."""
    rest = number.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def decimal_of(node: Node) -> Node | None:
    """The decimal in 3.14, -3.14 and 3.14 \\times 10^5."""
    if node.kind in (Kind.NEGATE, Kind.PERCENT, Kind.DEGREE):
        return decimal_of(node.args[0])
    if node.kind is Kind.MULTIPLY and node.args[1].kind is Kind.POWER and node.args[1].args[0] == number(10):
        return decimal_of(node.args[0])
    return node if node.kind is Kind.NUMBER and node.places is not None else None
