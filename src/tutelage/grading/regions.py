"""Regions of the real line: intervals, unions, inequalities in one variable, compared as sets of numbers."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

from tutelage.grading.canonical import name_of
from tutelage.grading.tree import Node, symbols_of
from tutelage.grading.values import Undefined, as_mpf, close, evaluate, is_real, points

_NAMED_SETS = ("mathbb", "emptyset")
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!=", "~": "~"}


def same_region(gold: Node, answer: Node) -> bool | None:
    """The same truth at every boundary, between them and far out; None when the bounds are not numbers or the variables several."""
    variables = [_variables(node) for node in (gold, answer)]
    if variables[0] and variables[1] and variables[0] != variables[1]:
        return False
    if any(node.kind == "relation" and not names for node, names in zip((gold, answer), variables, strict=True)):
        return None  # f(1) < f(2): nothing varies
    variable = next(iter(variables[0] | variables[1]), "")
    names = {name for name in symbols_of(gold) | symbols_of(answer) if not name.startswith(_NAMED_SETS)}
    if names - {variable} or len(variables[0] | variables[1]) > 1:
        return None
    boundaries = sorted({b for node in (gold, answer) for b in _boundaries(node, variable)}, key=as_mpf) or [Fraction(0)]
    just = Fraction(1, 997)
    tests = [boundaries[0] - 7, boundaries[0] - just, *boundaries, boundaries[-1] + just, boundaries[-1] + 7]
    tests += [(as_mpf(a) + as_mpf(b)) / 2 for a, b in pairwise(boundaries)]
    tests += [point["x"] * 3 for point in points({"x"}, 40)]
    try:
        return all(_holds(gold, test, variable) == _holds(answer, test, variable) for test in tests)
    except Undefined:
        return False


def flat_union(node: Node) -> list[Node]:
    if node.kind == "union":
        return [part for side in node.args for part in flat_union(side)]
    return [node]


def _variables(node: Node) -> set[str]:
    """What the relations in it speak about: their only symbol, or the name f(x) between two bounds."""
    if node.kind == "relation":
        middles = [part for part in node.args if symbols_of(part) or part.kind == "apply"]
        if len(middles) == 1 and (name := name_of(middles[0])) is not None and not name.startswith("abs"):
            return {name}
        return symbols_of(node)
    if node.kind == "symbol" and node.value.startswith(_NAMED_SETS):
        return set()
    return set().union(*(_variables(part) for part in node.args if isinstance(part, Node))) if node.args else set()


def _boundaries(node: Any, variable: str) -> set[Any]:
    """Every constant in it, with both signs: the points at which its truth may change."""
    found: set[Any] = set()
    if not isinstance(node, Node):
        return found
    if node.kind not in ("list", "set", "sequence", "union", "intersection", "setminus", "relation") and not symbols_of(node):
        try:
            value = evaluate(node)
        except Undefined:
            return found
        if isinstance(value, Fraction) or (is_real(value) and abs(value) < 10**12):
            value = value if isinstance(value, Fraction) else value.real
            found |= {value, -value}
    for part in node.args:
        found |= _boundaries(part, variable)
    return found


def _holds(node: Node, at: Any, variable: str) -> bool:
    """Whether a number lies in the region."""
    match node.kind:
        case "union":
            return any(_holds(part, at, variable) for part in node.args)
        case "intersection":
            return all(_holds(part, at, variable) for part in node.args)
        case "list":
            both = node.value == "and" or (node.value is None and any("!=" in (part.value or ()) for part in node.args))
            return (all if both else any)(_holds(part, at, variable) for part in node.args)
        case "setminus":
            return _holds(node.args[0], at, variable) and not _holds(node.args[1], at, variable)
        case "set":
            return any(close(as_mpf(evaluate(part)), as_mpf(at)) for part in node.args)
        case "sequence" if len(node.args) == 2:
            low, high = (evaluate(part) for part in node.args)
            left = node.value[0] == "[" if _same_point(low, at) else bool(as_mpf(low) < as_mpf(at))
            right = node.value[1] == "]" if _same_point(high, at) else bool(as_mpf(at) < as_mpf(high))
            return left and right
        case "relation":
            values = [at if name_of(part) == variable else evaluate(part, {variable: at}) for part in node.args]
            return all(_related(a, operator, b) for a, operator, b in zip(values, node.value, values[1:], strict=False))
        case "symbol" if node.value == "mathbb R":
            return True
        case "symbol" if node.value == "emptyset":
            return False
    raise Undefined(f"a {node.kind} is no region")


def _same_point(a: Any, b: Any) -> bool:
    return close(as_mpf(a), as_mpf(b))


def _related(a: Any, operator: str, b: Any) -> bool:
    if not is_real(a) or not is_real(b):
        return False
    x, y = (as_mpf(value).real if not isinstance(value, Fraction) else as_mpf(value) for value in (a, b))
    same = close(x, y)
    match operator:
        case "=":
            return same
        case "!=":
            return not same
        case "<":
            return bool(x < y) and not same
        case ">":
            return bool(x > y) and not same
        case "<=":
            return bool(x < y) or same
        case ">=":
            return bool(x > y) or same
    raise Undefined(f"the relation {operator}")


def as_interval(node: Node) -> Node | None:
    if node.kind == "sequence":
        return node
    if node.kind != "relation" or not set(node.value) <= {"<", "<=", ">", ">="}:
        return None
    args, operators = node.args, node.value
    if all(operator[0] == ">" for operator in operators):
        args, operators = args[::-1], tuple(FLIPPED[operator] for operator in reversed(operators))
    infinity = Node("symbol", (), "infty")
    if len(args) == 2 and name_of(args[0]) is not None:
        args, operators = (Node("negate", (infinity,)), *args), ("<", *operators)
    elif len(args) == 2:
        args, operators = (*args, infinity), (*operators, "<")
    brackets = ("[" if operators[0] == "<=" else "(", "]" if operators[-1] == "<=" else ")")
    return Node("sequence", (args[0], args[-1]), brackets) if len(args) == 3 and name_of(args[1]) is not None else None
