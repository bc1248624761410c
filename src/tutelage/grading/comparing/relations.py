"""Relations, collections and regions of the real line: values by name, equations, inequalities, sets by a condition."""

from __future__ import annotations

import re

from tutelage.grading.comparing.expressions import constant_factor, equal_expressions, is_scalar
from tutelage.grading.comparing.named import (
    VARIABLES,
    Named,
    all_names,
    assignment,
    elements_of,
    in_order,
    membership,
    name_of,
    named_values,
    one_family,
    renamed,
    unnamed_values,
    without_subscript,
)
from tutelage.grading.comparing.quantities import in_base_units
from tutelage.grading.comparing.regions import FLIPPED, as_interval, flat_union, integers_in, same_region
from tutelage.grading.comparing.rules import MAX_ELEMENTS, SET_OPERATIONS, UNORDERED, only_element, ordered, rule, same, unordered
from tutelage.grading.reading.tree import ELLIPSIS, ZERO, Kind, Node, difference, number, rewritten, symbol, symbols_of

_INEQUALITIES = {"<", ">", "<=", ">=", "!="}


@rule(Kind.LIST, Kind.SET)
def _equal_collections(gold: Node, answer: Node) -> bool:
    """Bare lists and sets have no order, tuples have; named values are compared by their names."""
    if max(len(gold.args), len(answer.args)) > MAX_ELEMENTS:
        return False
    if _leaves_open(gold) is not _leaves_open(answer):
        return False
    if {gold.value, answer.value} == {"or", "and"} and _is_mixed(gold):  # x = 2 or x > 5
        return False
    if any(isinstance(part, Node) and part.is_symbol(ELLIPSIS) for part in gold.args + answer.args):  # 1, 4, 9, …, n^2 has an order
        return gold.kind is answer.kind and ordered(gold.args, answer.args)
    if is_condition(gold) or is_condition(answer):
        joined = "or" not in (gold.value, answer.value) and len(symbols_of(gold)) > 1
        if (joined or gold.value == answer.value) and unordered(elements_of(gold), elements_of(answer)):
            return True
        return _equal_regions(gold, answer)
    if (by_name := _equal_by_name(gold, answer)) is not None:
        return by_name
    names = all_names(gold), all_names(answer)
    if names[0] and names[1] and names[0] != names[1] and (
        len(set(map(without_subscript, names[0] | names[1]))) > 1 or all(any("_" in name for name in side) for side in names)
    ):
        return False
    items = unnamed_values(gold), unnamed_values(answer)
    if gold.kind in UNORDERED and answer.kind in UNORDERED:
        repeats_count = gold.kind is answer.kind is Kind.LIST and all(map(is_scalar, items[0] + items[1]))
        return unordered(*(items if repeats_count else (tuple(dict.fromkeys(side)) for side in items)))
    other = answer if gold.kind in UNORDERED else gold
    if other.kind is Kind.SEQUENCE and (other.value == ("(", ")") or (other.value == ("[", "]") and len(other.args) != 2)):
        return ordered(*items)
    return other.kind in SET_OPERATIONS and _equal_regions(gold, answer)


def _leaves_open(node: Node) -> bool:
    """x = 2 or y > 0: one of several things."""
    if node.kind is not Kind.LIST or node.value != "or":
        return False
    relations = [part for part in node.args if part.kind is Kind.RELATION]
    return (_is_mixed(node) and len(symbols_of(node)) > 1) or len({name_of(part.args[0]) for part in relations}) == len(relations) > 1


def _is_mixed(node: Node) -> bool:
    """Equations and inequalities stand in it."""
    return {"="} < {operator for part in node.args if isinstance(part, Node) and part.kind is Kind.RELATION for operator in part.value}


def is_condition(node: Node) -> bool:
    """x > 2 and x < 4: a list of inequalities is a region."""
    return node.kind is Kind.LIST and all(part.kind is Kind.RELATION and set(part.value) <= _INEQUALITIES for part in node.args)


def _equal_by_name(gold: Node, answer: Node) -> bool | None:
    """x = 3, y = 2 by the names of the values, or against (3, 2) by their order; None if names do not decide."""
    named = [named_values(node) for node in (gold, answer)]
    unique = [pairs if pairs is not None and len(dict(pairs)) == len(pairs) else None for pairs in named]
    first, second = unique
    if first is not None and second is not None:
        return _equal_named(first, second) if len(first) + len(second) > 2 else None
    if None not in named or first is second or one_family(first or second or []):
        return None
    sides = [elements_of(node) if pairs is None else in_order(pairs) for node, pairs in ((gold, first), (answer, second))]
    if "chain" in (gold.value, answer.value) and 1 in map(len, sides):  # a = b = 5 and 5
        one, many = sorted(sides, key=len)
        return all(same(one[0], value) for value in many)
    return ordered(sides[0], sides[1])


def _equal_named(gold: Named, answer: Named) -> bool:
    """By their names; x(t) may be called x."""
    first, second = ({name.removesuffix("()"): value for name, value in side} for side in (gold, answer))
    return len(first) == len(gold) and first.keys() == second.keys() and all(same(value, second[name]) for name, value in first.items())


# --- relations


@rule(Kind.RELATION)
def _equal_relations(gold: Node, answer: Node) -> bool:
    if _leaves_open(gold) or _leaves_open(answer):
        return False
    first, second = assignment(gold), assignment(answer)
    if first is not None and second is not None:
        return _equal_assignments(gold, answer, first, second)
    if (first or second) and gold.kind is not answer.kind:
        if Kind.LIST in (gold.kind, answer.kind):
            return _equal_collections(gold, answer)
        values = first[1] if first else gold, second[1] if second else answer
        return same(only_element(*values), only_element(*reversed(values)))
    members = membership(gold), membership(answer)
    if members != (None, None):
        if None not in members and name_of(gold.args[0]) != name_of(answer.args[0]):
            return False
        sides = members[0] or gold, members[1] or answer
        kinds = {side.kind for side in sides}
        listed = kinds == {Kind.LIST, Kind.SEQUENCE} and not any(map(is_condition, sides))  # x = 0 or x = 5 is no interval
        return kinds != {Kind.SET, Kind.SEQUENCE} and not listed and same(*sides)
    if gold.kind is answer.kind:
        if set(gold.value) | set(answer.value) <= {"="}:
            return _equal_equations(gold, answer)
        if gold.value == answer.value and ordered(gold.args, answer.args):
            return True
        gold, answer = in_base_units(gold, answer)
        return _equal_inequalities(gold, answer) or _equal_regions(gold, answer)
    relation, other = (gold, answer) if gold.kind is Kind.RELATION else (answer, gold)
    if not set(relation.value) & _INEQUALITIES:
        return False
    if other.kind is Kind.BUILDER:
        return _equal_builders(gold, answer)
    return other.kind in (Kind.SEQUENCE, *SET_OPERATIONS, *UNORDERED) and _equal_regions(gold, answer)


def _equal_assignments(gold: Node, answer: Node, first: tuple[str, Node], second: tuple[str, Node]) -> bool:
    """x = 5 and x = 5.0, f(x) = 2x and f(t) = 2t; under two names only as one equation (x = 2y and y = x/2)."""
    one, other = _sequence(gold), _sequence(answer)
    if one and other and one[0] == other[0]:  # a_n = 2n, a(k) = 2k
        return same(renamed(first[1], {one[1]: "x•"}), renamed(second[1], {other[1]: "x•"}))
    names = sorted((first[0], second[0]))
    if names[0] == names[1] or _argument_dropped(gold, answer) or (
        names[1].rstrip("'") == "y" and names[0][0] in "fgh" and names[0].endswith("()") and names[0].count("'") == names[1].count("'")
    ):  # a function may be called y
        variables = _argument_of(gold.args[0]), _argument_of(answer.args[0])
        if all(variables) and variables[0] != variables[1]:
            return same(renamed(first[1], {variables[0]: "x•"}), renamed(second[1], {variables[1]: "x•"}))
        return same(first[1], second[1])
    if first[0].startswith("(") and second[0].startswith("("):  # (x, y) = (1, 2) and (y, x) = (2, 1)
        pairs = named_values(gold), named_values(answer)
        return pairs[0] is not None and pairs[1] is not None and _equal_named(pairs[0], pairs[1])
    return bool(symbols_of(first[1]) or symbols_of(second[1])) and _equal_equations(gold, answer)


def _sequence(side: Node) -> tuple[str, str] | None:
    """The a and n of a_n = 2n and of a(n) = 2n, where the value speaks of n."""
    name, value = side.args
    if name.is_symbol() and re.fullmatch("[a-zA-Z]_[nkmij]", name.value):
        found = name.value[0], name.value[-1]
    elif (letter := _argument_of(name)) and name.args[0].is_symbol():
        found = name.args[0].value, letter
    else:
        return None
    return found if found[1] in value.names else None


def _argument_dropped(gold: Node, answer: Node) -> bool:
    """V(r) on one side and V on the other, where the value speaks of r."""
    for side, other in ((gold, answer), (answer, gold)):
        call, value = side.args
        if call.kind is Kind.APPLY and call.args[0] == other.args[0] and (
            call.args[0].is_symbol("P") or symbols_of(call.args[1:]) <= symbols_of(value) | VARIABLES
        ):
            return all(part.is_symbol() for part in call.args[1:])
    return False


def _argument_of(name: Node) -> str:
    """The x of f(x)."""
    return str(name.args[1].value) if name.kind is Kind.APPLY and len(name.args) == 2 and name.args[1].is_symbol() else ""


def _equal_equations(gold: Node, answer: Node) -> bool:
    """L = R and a multiple of it are one equation: the quotient of the two differences is one number."""
    if len(gold.args) != 2 or len(answer.args) != 2:
        return unordered(gold.args, answer.args)
    if constant_factor(difference(*gold.args), difference(*answer.args)) is not None:
        return True
    return _solved_by(gold, answer) or _solved_by(answer, gold)


def _solved_by(solved: Node, equation: Node) -> bool:
    """y = 1/x is xy = 1: it satisfies the equation, which is linear in y."""
    name, value = solved.args
    if not name.is_symbol() or name.value in symbols_of(value) or symbols_of(solved) != symbols_of(equation):
        return False
    left = difference(*equation.args)
    if not is_scalar(left):
        return False

    def at(step: int) -> Node:
        shifted = Node(Kind.ADD, (value, number(step)))
        return rewritten(left, lambda part: shifted if part.is_symbol(name.value) else part)

    linear = equal_expressions(Node(Kind.ADD, (at(1), at(-1))), ZERO) and equal_expressions(Node(Kind.ADD, (at(3), at(-3))), ZERO)
    slope = difference(at(1), at(0))
    never_zero = not equal_expressions(slope, ZERO) and (
        _is_constant(slope) or (value.kind is Kind.DIVIDE and constant_factor(slope, value.args[1]) is not None)
    )
    return never_zero and linear and equal_expressions(at(0), ZERO)


def _is_constant(node: Node) -> bool:
    """The same at all points: a step of each symbol changes nothing."""
    stepped = rewritten(node, lambda part: Node(Kind.ADD, (part, number(1))) if part.is_symbol(*symbols_of(node)) else part)
    return not symbols_of(node) or equal_expressions(node, stepped)


def _equal_inequalities(gold: Node, answer: Node) -> bool:
    """x + y < 3 and 6 - 2y > 2x: one is a positive multiple of the other, or a negative one with the sign turned."""
    if len(gold.args) != 2 or len(answer.args) != 2:
        return False
    factor = constant_factor(difference(*gold.args), difference(*answer.args))
    operator = answer.value[0]
    return factor is not None and gold.value[0] == (operator if factor > 0 else FLIPPED.get(operator))


# --- regions of the real line


@rule(Kind.BUILDER)
def _equal_builders(gold: Node, answer: Node) -> bool:
    """{x | x > 3} is a region of the real line; any other is the same when its element and its conditions are."""
    if gold.kind is answer.kind:
        return same(gold.args[0], answer.args[0]) and unordered(gold.args[1:], answer.args[1:])
    builder, other = (gold, answer) if gold.kind is Kind.BUILDER else (answer, gold)
    element, *conditions = builder.args
    if (domain := membership(element)) is not None and domain == symbol("mathbb R"):
        element = element.args[0]
    if domain in (symbol("mathbb Z"), symbol("mathbb N")) and other.kind is Kind.SET and len(conditions) == 1:
        members = integers_in(conditions[0], element.args[0].value, 1 if domain.value.endswith("N") else -100)
        return members is not None and same(Node(Kind.SET, tuple(map(number, members))), other)
    if not element.is_symbol() or len(conditions) != 1 or symbols_of(conditions[0]) != {element.value}:
        return False
    condition = conditions[0]
    return (condition.kind is Kind.RELATION or is_condition(condition)) and _equal_regions(condition, other)


@rule(*SET_OPERATIONS)
def _equal_regions(gold: Node, answer: Node) -> bool:
    """Unions, intervals and inequalities: part by part, else as sets of numbers, else (a < x < b and (a, b)) by their bounds."""
    sides = tuple(flat_union(gold)), tuple(flat_union(answer))
    if all(part.kind in (Kind.SEQUENCE, Kind.SET) for side in sides for part in side) and unordered(*sides):
        return True
    gold, answer = in_base_units(gold, answer)
    verdict = same_region(gold, answer)
    if verdict is not None:
        return verdict
    intervals = as_interval(gold), as_interval(answer)
    return intervals[0] is not None and intervals[1] is not None and same(intervals[0], intervals[1])
