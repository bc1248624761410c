"""Regions of the real line: intervals, unions, inequalities in one variable, compared as sets of numbers."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from tutelage.grading.calculating.numbers import Undefined, Value, alike, as_mpf, close, is_finite, is_real, nearly
from tutelage.grading.calculating.values import evaluate
from tutelage.grading.calculating.work import spend
from tutelage.grading.comparing.named import name_of
from tutelage.grading.reading.tree import ZERO, Kind, Node, call, negated, number, symbol, symbols_of

_NAMED_SETS = ("mathbb", "emptyset")
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!=", "~": "~"}


def same_region(gold: Node, answer: Node) -> bool | None:
    """The same truth at every boundary, between them and far out; None when the bounds are not numbers or the variables several."""
    variables = [_variables(node) for node in (gold, answer)]
    if variables[0] and variables[1] and variables[0] != variables[1]:
        return False
    if any(node.kind is Kind.RELATION and not names for node, names in zip((gold, answer), variables, strict=True)):
        return None  # f(1) < f(2): nothing varies
    variable = next(iter(variables[0] | variables[1]), "")
    names = {name for name in symbols_of(gold) | symbols_of(answer) if not name.startswith(_NAMED_SETS)}
    if names - {variable} or len(variables[0] | variables[1]) > 1:
        return None
    try:
        found = sorted(boundaries(gold, variable) | boundaries(answer, variable), key=as_mpf) or [Fraction(0)]
        near = [boundary + side for boundary in found for side in (-JUST, JUST)]
        between = [(as_mpf(a) + as_mpf(b)) / 2 for a, b in pairwise(found)]
        tests = [found[0] - 7, *found, *near, *between, found[-1] + 7]
        sides = [_joined(node, tests, variable) for node in (gold, answer)]
        return all(lies_in(sides[0], test, variable) == lies_in(sides[1], test, variable) for test in tests)
    except Undefined:
        return False


JUST = Fraction(1, 10**15)
"""How far beside a boundary its two sides are tried."""


def _joined(node: Node, tests: list[Value], variable: str) -> Node:
    """x > 1, x < 3 hold together where they can; x < 1, x > 3 cannot, so that one of them is enough."""
    if node.kind is not Kind.LIST or node.value is not None:
        return node
    together = Node(Kind.LIST, node.args, "and")
    return together if any(lies_in(together, test, variable) for test in tests) else node


def flat_union(node: Node) -> list[Node]:
    if node.kind is Kind.UNION:
        return [part for side in node.args for part in flat_union(side)]
    return [node]


def _variables(node: Node) -> frozenset[str]:
    """What the relations in it speak about: their only symbol, or the name f(x) between two bounds."""
    if node.kind is Kind.RELATION:
        middles = [part for part in node.args if symbols_of(part) or part.kind is Kind.APPLY]
        if len(middles) == 1 and (name := name_of(middles[0])) is not None and not name.startswith("abs"):
            return frozenset((name,))
        return symbols_of(node)
    if node.kind is Kind.SYMBOL and node.value.startswith(_NAMED_SETS):
        return frozenset()
    return frozenset().union(*(_variables(part) for part in node.args if isinstance(part, Node)))


def boundaries(node: Node, variable: str) -> set[Value]:
    """The points at which its truth may change. Raises Undefined: they cannot be found."""
    if node.kind in (Kind.SEQUENCE, Kind.SET):
        values = {evaluate(part) for part in node.args}
        return {value for value in values if is_finite(value)}
    if node.kind is Kind.RELATION:
        return {root for a, b in pairwise(node.args) for root in _roots(a, b, variable)}
    if node.kind is Kind.MATRIX:
        raise Undefined("a matrix is no region")
    return set().union(*(boundaries(part, variable) for part in node.args)) if node.args else set()


def _roots(left: Node, right: Node, variable: str) -> set[Value]:
    """Where the two sides are equal, for sides that are linear or quadratic between the kinks of their absolute values.

    Raises:
        Undefined: they are anything else.
    """

    def difference(at: Value) -> Value:
        a, b = (at if name_of(side) == variable else evaluate(side, {variable: at}) for side in (left, right))
        if not (is_real(a) and is_real(b)):
            raise Undefined("not real everywhere")
        if not (is_finite(a) and is_finite(b)):
            raise Undefined("a bound at infinity")
        a, b = alike(a, b)
        return a - b

    for side, other in ((left, right), (right, left)):
        if not symbols_of(side):
            value = evaluate(side)
            if not is_finite(value):
                return set()
            if name_of(other) == variable and is_real(value):
                return {value}
    kinks = {root for side in (left, right) for inner in _absolute_values(side) for root in _roots(inner, ZERO, variable)}
    ends = sorted(alike(*kinks)) or [Fraction(0)]
    spans = [(ends[0] - 8, ends[0], True), *((a, b, False) for a, b in pairwise(ends)), (ends[-1], ends[-1] + 8, True)]
    roots = set(kinks)
    for low, high, open_ended in spans:
        at = [low + (high - low) * step / 6 for step in range(1, 6)]
        for root in _roots_of_quadratic(at, [difference(point) for point in at]):
            x, first, last, start, stop = map(as_mpf, (root, low, high, ends[0], ends[-1]))
            if first <= x <= last or (open_ended and (x < start if high == ends[0] else x > stop)):
                roots.add(root)
    return roots


def _roots_of_quadratic(at: list[Value], values: list[Value]) -> list[Value]:
    """The real roots of the quadratic (or line) through five points, by Newton's divided differences."""
    numbers = alike(*at, *values)
    at, values = numbers[:5], numbers[5:]
    slopes = [(v - u) / (q - p) for (p, q), (u, v) in zip(pairwise(at), pairwise(values), strict=True)]
    curves = [(v - u) / (at[index + 2] - at[index]) for index, (u, v) in enumerate(pairwise(slopes))]
    if not all(nearly(curve, curves[0]) for curve in curves):
        raise Undefined("neither linear nor quadratic")
    a = curves[0]
    b = slopes[0] - a * (at[0] + at[1])
    c = values[0] - (a * at[0] + b) * at[0]
    if nearly(a, Fraction(0)):
        return [] if nearly(b, Fraction(0)) else [-c / b]
    square = b * b - 4 * a * c
    if square < 0:
        return []
    root = evaluate(call("root", Node(Kind.NUMBER, (), square), number(2)))
    a, b, root = alike(a, b, root)
    return [(-b + root) / (2 * a), (-b - root) / (2 * a)]


def _absolute_values(node: Node) -> list[Node]:
    """The insides of the absolute values in it."""
    own = [node.args[0]] if node.kind is Kind.CALL and node.value == "abs" else []
    return own + [inner for part in node.args if isinstance(part, Node) for inner in _absolute_values(part)]


def lies_in(node: Node, at: Value, variable: str) -> bool:
    """Whether a number lies in the region."""
    spend(5)
    match node.kind:
        case Kind.UNION:
            return any(lies_in(part, at, variable) for part in node.args)
        case Kind.INTERSECTION:
            return all(lies_in(part, at, variable) for part in node.args)
        case Kind.LIST:
            intervals = all(part.kind is Kind.SEQUENCE for part in node.args)  # on (0, 1) and (2, 3): on both
            return (all if node.value == "and" and not intervals else any)(lies_in(part, at, variable) for part in node.args)
        case Kind.SETMINUS:
            return lies_in(node.args[0], at, variable) and not lies_in(node.args[1], at, variable)
        case Kind.SET:
            return any(close(evaluate(part), at) for part in node.args)
        case Kind.SEQUENCE if len(node.args) == 2:
            low, high = (evaluate(part) for part in node.args)
            below, above = ("<=" if bracket in "[]" else "<" for bracket in node.value)
            return _related(low, below, at) and _related(at, above, high)
        case Kind.RELATION:
            values = [at if name_of(part) == variable else evaluate(part, {variable: at}) for part in node.args]
            return all(_related(a, operator, b) for a, operator, b in zip(values, node.value, values[1:], strict=False))
        case Kind.SYMBOL if node.value == "mathbb R":
            return True
        case Kind.SYMBOL if node.value == "emptyset":
            return False
    raise Undefined(f"a {node.kind} is no region")


def _related(a: Value, operator: str, b: Value) -> bool:
    if not is_real(a) or not is_real(b):
        return False
    x, y = as_mpf(a).real, as_mpf(b).real
    same = close(x, y)
    match operator:
        case "=" | "!=":
            return same is (operator == "=")
        case "<" | "<=":
            return operator == "<=" if same else bool(x < y)
        case ">" | ">=":
            return operator == ">=" if same else bool(x > y)
    raise Undefined(f"the relation {operator}")


def integers_in(condition: Node, variable: str, start: int) -> list[int] | None:
    """The integers from `start` to 100 for which a condition on one variable holds; None where they are not all."""
    try:
        found = [at for at in range(start, 102) if lies_in(condition, Fraction(at), variable)]
    except Undefined:
        return None
    return None if not found or found[-1] > 100 or (start < 0 and found[0] == start) else found


def as_interval(node: Node) -> Node | None:
    if node.kind is Kind.SEQUENCE:
        return node
    if node.kind is not Kind.RELATION or not set(node.value) <= {"<", "<=", ">", ">="}:
        return None
    args, operators = node.args, node.value
    if all(operator[0] == ">" for operator in operators):
        args, operators = args[::-1], tuple(FLIPPED[operator] for operator in reversed(operators))
    if any(operator[0] == ">" for operator in operators):
        return None
    infinity = symbol("infty")
    if len(args) == 2 and name_of(args[0]) is not None:
        args, operators = (negated(infinity), *args), ("<", *operators)
    elif len(args) == 2:
        args, operators = (*args, infinity), (*operators, "<")
    brackets = ("[" if operators[0] == "<=" else "(", "]" if operators[-1] == "<=" else ")")
    return Node(Kind.SEQUENCE, (args[0], args[-1]), brackets) if len(args) == 3 and name_of(args[1]) is not None else None
