"""Are two trees the same answer? Structure first: kind, brackets, arity, then the elements."""

from __future__ import annotations

from collections.abc import Callable

from tutelage.grading import families
from tutelage.grading.applied import resolved
from tutelage.grading.canonical import expand, shape, simplify
from tutelage.grading.expressions import constant_factor, equal_expressions, is_scalar
from tutelage.grading.named import (
    Named,
    all_names,
    assignment,
    elements_of,
    in_order,
    membership,
    name_of,
    named_values,
    neutral,
    one_family,
    renamed,
    unnamed_values,
    without_subscript,
)
from tutelage.grading.regions import FLIPPED, as_interval, flat_union, integers_in, same_region
from tutelage.grading.tree import ZERO, Kind, Node, difference, nodes_of, number, product, rewritten, symbol, symbols_of, tuple_of
from tutelage.grading.units import unit_of
from tutelage.grading.words import number_of

MAX_ELEMENTS = 200
_SIGNS = (Kind.PERCENT, Kind.DEGREE)
_UNORDERED = (Kind.LIST, Kind.SET)
_SET_OPERATIONS = (Kind.UNION, Kind.INTERSECTION, Kind.SETMINUS)
_INEQUALITIES = {"<", ">", "<=", ">=", "!="}


def equal(gold: Node, answer: Node) -> bool:
    """Whether a careful human would call the two the same answer.

    Raises:
        TooLarge: a limit of evaluation was met.
    """
    gold, answer = (expand(simplify(node)) for node in resolved(gold, answer))
    both_builders = gold.kind is answer.kind is Kind.BUILDER
    gold, answer = (neutral(node, both_builders) for node in (gold, answer))
    gold, answer = _as_mixed(gold, answer), _as_mixed(answer, gold)
    if _equal(_only_element(gold, answer), _only_element(answer, gold)):
        return True
    return any(_equal(*reading) for reading in families.readings(gold, answer))


def has_opaque(node: Node) -> bool:
    """Something in it is compared by its parts and not evaluated."""
    return any(inner.kind is Kind.OPAQUE and inner.value != "mod" for inner in nodes_of(node))


def _as_mixed(node: Node, other: Node) -> Node:
    """3 and 1/2, where the other side is one number."""
    if node.kind is not Kind.LIST or node.value != "and" or len(node.args) != 2 or not is_scalar(other):
        return node
    full, part = node.args
    proper = part.kind is Kind.DIVIDE and all(inner.kind is Kind.NUMBER for inner in part.args) and part.args[0].value < part.args[1].value
    return Node(Kind.ADD, node.args) if proper and full.kind is Kind.NUMBER and full.places is None else node


def _only_element(node: Node, other: Node) -> Node:
    """The 5 of {5}, where the other side is no collection."""
    if node.kind not in _UNORDERED or len(node.args) != 1 or other.kind in (*_UNORDERED, Kind.RELATION) or node.args[0].is_symbol("emptyset"):
        return node
    return node.args[0] if other.kind is not Kind.SEQUENCE or node.args[0].kind is Kind.SEQUENCE else node


def _equal(gold: Node, answer: Node) -> bool:
    if gold == answer and gold.places == answer.places:
        return True
    kinds = {gold.kind, answer.kind}
    if kinds == {Kind.SEQUENCE, Kind.SYMBOL}:
        return _equal_regions(gold, answer)
    if kinds == {Kind.RATIO}:
        return len(gold.args) == len(answer.args) and _proportional(gold.args, answer.args)
    for kind, rule in _RULES:
        if kind in kinds:
            return rule(gold, answer)
    return equal_expressions(gold, answer)


def _ordered(gold: tuple[Node, ...], answer: tuple[Node, ...]) -> bool:
    return len(gold) == len(answer) and all(map(_equal, gold, answer))


def _unordered(gold: tuple[Node, ...], answer: tuple[Node, ...]) -> bool:
    """The same elements in any order, each used once."""
    if max(len(gold), len(answer)) > MAX_ELEMENTS:
        return False
    left = list(answer)
    for element in gold:
        found = next((index for index, other in enumerate(left) if _equal(element, other)), None)
        if found is None:
            return False
        del left[found]
    return not left


# --- numbers with something added


def _proportional(gold: tuple[Node, ...], answer: tuple[Node, ...]) -> bool:
    """1 : 2 and 2 : 4 are one ratio."""
    crossed = [(product(a, answer[0]), product(b, gold[0])) for a, b in zip(gold, answer, strict=True)]
    return all(equal_expressions(a, b) for a, b in crossed) and answer[0] != ZERO


def _equal_quantities(gold: Node, answer: Node) -> bool:
    """A unit may be left out, but two units must be the same."""
    gold, answer = _with_letter_unit(gold, answer), _with_letter_unit(answer, gold)
    units = [
        unit_of(node.value) if node.kind is Kind.QUANTITY else node.kind if node.kind in _SIGNS else "" for node in (gold, answer)
    ]
    if units[0] and units[1] and units[0] != units[1]:
        return False
    inner = [node.args[0] if node.kind is Kind.QUANTITY else node for node in (gold, answer)]
    return _equal(inner[0], inner[1])


def _with_letter_unit(node: Node, other: Node) -> Node:
    """7.5 m where the other side says 7.5 meters, 9 N·m beside newton meters: only then are letters units."""
    if other.kind is not Kind.QUANTITY or node.kind not in (Kind.MULTIPLY, Kind.DIVIDE):
        return node
    value, letters = _value_and_letters(node)
    return Node(Kind.QUANTITY, (value,), other.value) if letters and unit_of(letters) == unit_of(other.value) else node


def _value_and_letters(node: Node) -> tuple[Node, str]:
    """(5, "m^2") of 5m^2; no letters where they are no factors."""
    if node.kind not in (Kind.MULTIPLY, Kind.DIVIDE):
        return node, "" if symbols_of(node) else " "
    value, letters = _value_and_letters(node.args[0])
    factor, sign = node.args[1], " / " if node.kind is Kind.DIVIDE else " "
    base, power = factor.args if factor.kind is Kind.POWER else (factor, None)
    if not letters or not base.is_symbol() or (power is not None and power.kind is not Kind.NUMBER):
        return node, ""
    return value, f"{letters}{sign}{_SYMBOLS_OF_UNITS.get(base.value, base.value)}{f'^{power.value}' if power is not None else ''}"


_SYMBOLS_OF_UNITS = {"Omega": "ohm"}


def _equal_based(gold: Node, answer: Node) -> bool:
    """52_8 is 52_8, and 52 where the question has said the base; never a number in another base."""
    if gold.kind is answer.kind:
        return _in_base(gold) == _in_base(answer)
    return gold.kind is Kind.BASED and answer.kind is Kind.NUMBER and answer.places is None and str(answer.value) == gold.value[0]


def _in_base(node: Node) -> int | tuple[str, str]:
    """The value, or what is written if that has none."""
    digits, base = node.value
    number = number_of(base) or (int(base) if base.isdigit() else 0)
    try:
        return int(digits, number) if 2 <= number <= 36 else (digits, base)
    except ValueError:
        return digits, base


def _equal_residues(gold: Node, answer: Node) -> bool:
    """2 (mod 5) is 7 (mod 5), and nothing in another modulus."""
    if gold.kind is not answer.kind or not _equal(gold.args[1], answer.args[1]):
        return False
    remainder = Node(Kind.OPAQUE, (difference(gold.args[0], answer.args[0]), gold.args[1]), "mod")
    return equal_expressions(remainder, ZERO) or _equal(gold.args[0], answer.args[0])


# --- tuples and matrices


def _equal_sequences(gold: Node, answer: Node) -> bool:
    """Tuples by position; for two numbers the brackets count, since they may be an interval; a column is a tuple too."""
    gold, answer = _column_as_tuple(gold), _column_as_tuple(answer)
    if gold.kind is answer.kind:
        half_open = {("(", "]"), ("[", ")")} & {gold.value, answer.value}
        if gold.value != answer.value and (half_open or len(gold.args) == 2):
            return False
        return _ordered(gold.args, answer.args)
    return Kind.MATRIX in (gold.kind, answer.kind) and _equal_matrices(_rows_as_matrix(gold), _rows_as_matrix(answer))


def _column_as_tuple(node: Node) -> Node:
    if node.kind is Kind.MATRIX and 1 in shape(node) and node.value is None:
        return tuple_of(tuple(entry for row in node.args for entry in row))
    return node


def _rows_as_matrix(node: Node) -> Node:
    """((1, 2), (3, 4)) as a matrix."""
    if node.kind is Kind.SEQUENCE and all(row.kind is Kind.SEQUENCE for row in node.args):
        return Node(Kind.MATRIX, tuple(row.args for row in node.args))
    return node


def _equal_matrices(gold: Node, answer: Node) -> bool:
    """Entry by entry; the cases of a definition have no order."""
    if gold.kind is not answer.kind or gold.value != answer.value or shape(gold) != shape(answer):
        return False
    if gold.value == "cases":
        return _equal_cases(gold.args, answer.args)
    return all(map(_ordered, gold.args, answer.args))


# --- collections


def _equal_collections(gold: Node, answer: Node) -> bool:
    """Bare lists and sets have no order, tuples have; named values are compared by their names."""
    if max(len(gold.args), len(answer.args)) > MAX_ELEMENTS:
        return False
    if _is_condition(gold) or _is_condition(answer):
        if gold.value == answer.value and _unordered(elements_of(gold), elements_of(answer)):
            return True
        return _equal_regions(gold, answer)
    if (by_name := _equal_by_name(gold, answer)) is not None:
        return by_name
    names = all_names(gold), all_names(answer)
    if names[0] and names[1] and names[0] != names[1] and len(set(map(without_subscript, names[0] | names[1]))) > 1:
        return False
    items = unnamed_values(gold), unnamed_values(answer)
    if gold.kind in _UNORDERED and answer.kind in _UNORDERED:
        repeats_count = gold.kind is answer.kind is Kind.LIST and all(map(is_scalar, items[0] + items[1]))
        return _unordered(*(items if repeats_count else (tuple(dict.fromkeys(side)) for side in items)))
    other = answer if gold.kind in _UNORDERED else gold
    if other.kind is Kind.SEQUENCE and (other.value == ("(", ")") or (other.value == ("[", "]") and len(other.args) != 2)):
        return _ordered(*items)
    return other.kind in _SET_OPERATIONS and _equal_regions(gold, answer)


def _is_condition(node: Node) -> bool:
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
        return all(_equal(one[0], value) for value in many)
    return _ordered(sides[0], sides[1])


def _equal_named(gold: Named, answer: Named) -> bool:
    others = dict(answer)
    return {name for name, _ in gold} == set(others) and all(_equal(value, others[name]) for name, value in gold)


# --- relations


def _equal_relations(gold: Node, answer: Node) -> bool:
    first, second = assignment(gold), assignment(answer)
    if first is not None and second is not None:
        return _equal_assignments(gold, answer, first, second)
    if (first or second) and gold.kind is not answer.kind:
        if Kind.LIST in (gold.kind, answer.kind):
            return _equal_collections(gold, answer)
        values = first[1] if first else gold, second[1] if second else answer
        return _equal(_only_element(*values), _only_element(*reversed(values)))
    members = membership(gold), membership(answer)
    if members != (None, None):
        if None not in members and name_of(gold.args[0]) != name_of(answer.args[0]):
            return False
        sides = members[0] or gold, members[1] or answer
        return {side.kind for side in sides} != {Kind.SET, Kind.SEQUENCE} and _equal(*sides)
    if gold.kind is answer.kind:
        if set(gold.value) | set(answer.value) <= {"="}:
            return _equal_equations(gold, answer)
        if gold.value == answer.value and _ordered(gold.args, answer.args):
            return True
        return _equal_inequalities(gold, answer) or _equal_regions(gold, answer)
    relation, other = (gold, answer) if gold.kind is Kind.RELATION else (answer, gold)
    if not set(relation.value) & _INEQUALITIES:
        return False
    if other.kind is Kind.BUILDER:
        return _equal_builders(gold, answer)
    return other.kind in (Kind.SEQUENCE, *_SET_OPERATIONS, *_UNORDERED) and _equal_regions(gold, answer)


def _equal_assignments(gold: Node, answer: Node, first: tuple[str, Node], second: tuple[str, Node]) -> bool:
    """x = 5 and x = 5.0, f(x) = 2x and f(t) = 2t; under two names only as one equation (x = 2y and y = x/2)."""
    names = sorted((first[0], second[0]))
    if names[0] == names[1] or (names[1] == "y" and names[0][0] in "fgh" and names[0].endswith("()")):  # a function may be called y
        variables = _argument_of(gold.args[0]), _argument_of(answer.args[0])
        if all(variables) and variables[0] != variables[1]:
            return _equal(renamed(first[1], {variables[0]: "x•"}), renamed(second[1], {variables[1]: "x•"}))
        return _equal(first[1], second[1])
    if first[0].startswith("(") and second[0].startswith("("):  # (x, y) = (1, 2) and (y, x) = (2, 1)
        pairs = named_values(gold), named_values(answer)
        return pairs[0] is not None and pairs[1] is not None and _equal_named(pairs[0], pairs[1])
    return bool(symbols_of(first[1]) or symbols_of(second[1])) and _equal_equations(gold, answer)


def _argument_of(name: Node) -> str:
    """The x of f(x)."""
    return str(name.args[1].value) if name.kind is Kind.APPLY and len(name.args) == 2 and name.args[1].is_symbol() else ""


def _equal_equations(gold: Node, answer: Node) -> bool:
    """L = R and a multiple of it are one equation: the quotient of the two differences is one number."""
    if len(gold.args) != 2 or len(answer.args) != 2:
        return _unordered(gold.args, answer.args)
    if constant_factor(difference(*gold.args), difference(*answer.args)) is not None:
        return True
    return _solved_by(gold, answer) or _solved_by(answer, gold)


def _solved_by(solved: Node, equation: Node) -> bool:
    """y = 1/x is xy = 1: it satisfies the equation, which is linear in y."""
    name, value = solved.args
    if not name.is_symbol() or name.value in symbols_of(value) or symbols_of(solved) != symbols_of(equation) or not is_scalar(equation.args[1]):
        return False
    left = difference(*equation.args)

    def at(step: int) -> Node:
        shifted = Node(Kind.ADD, (value, number(step)))
        return rewritten(left, lambda part: shifted if part.is_symbol(name.value) else part)

    linear = equal_expressions(Node(Kind.ADD, (at(1), at(-1))), ZERO) and equal_expressions(Node(Kind.ADD, (at(3), at(-3))), ZERO)
    return linear and equal_expressions(at(0), ZERO) and not equal_expressions(at(1), ZERO)


def _equal_inequalities(gold: Node, answer: Node) -> bool:
    """x + y < 3 and 6 - 2y > 2x: one is a positive multiple of the other, or a negative one with the sign turned."""
    if len(gold.args) != 2 or len(answer.args) != 2:
        return False
    factor = constant_factor(difference(*gold.args), difference(*answer.args))
    operator = answer.value[0]
    return factor is not None and gold.value[0] == (operator if factor > 0 else FLIPPED.get(operator))


def _equal_cases(gold: tuple[tuple[Node, ...], ...], answer: tuple[tuple[Node, ...], ...]) -> bool:
    """Cases in any order; "otherwise" is the condition that is left."""
    left = list(answer)
    for row in gold:
        found = [other for other in left if len(row) == len(other) and all(map(_equal, row, other))] or [
            other for other in left if _equal(row[0], other[0]) and (_otherwise(row) or _otherwise(other))
        ]
        if not found:
            return False
        left.remove(found[0])
    return not left


def _otherwise(row: tuple[Node, ...]) -> bool:
    return row[-1].is_symbol("otherwise")


# --- regions of the real line


def _equal_builders(gold: Node, answer: Node) -> bool:
    """{x | x > 3} is a region of the real line; any other is the same when its element and its conditions are."""
    if gold.kind is answer.kind:
        return _equal(gold.args[0], answer.args[0]) and _unordered(gold.args[1:], answer.args[1:])
    builder, other = (gold, answer) if gold.kind is Kind.BUILDER else (answer, gold)
    element, *conditions = builder.args
    if (domain := membership(element)) is not None and domain == symbol("mathbb R"):
        element = element.args[0]
    if domain in (symbol("mathbb Z"), symbol("mathbb N")) and other.kind is Kind.SET and len(conditions) == 1:
        members = integers_in(conditions[0], element.args[0].value, 1 if domain.value.endswith("N") else -100)
        return members is not None and _equal(Node(Kind.SET, tuple(map(number, members))), other)
    if not element.is_symbol() or len(conditions) != 1 or symbols_of(conditions[0]) != {element.value}:
        return False
    condition = conditions[0]
    return (condition.kind is Kind.RELATION or _is_condition(condition)) and _equal_regions(condition, other)


def _equal_regions(gold: Node, answer: Node) -> bool:
    """Unions, intervals and inequalities: part by part, else as sets of numbers, else (a < x < b and (a, b)) by their bounds."""
    sides = tuple(flat_union(gold)), tuple(flat_union(answer))
    if all(part.kind in (Kind.SEQUENCE, Kind.SET) for side in sides for part in side) and _unordered(*sides):
        return True
    same = same_region(gold, answer)
    if same is not None:
        return same
    intervals = as_interval(gold), as_interval(answer)
    return intervals[0] is not None and intervals[1] is not None and _equal_sequences(intervals[0], intervals[1])


_RULES: list[tuple[Kind, Callable[[Node, Node], bool]]] = [
    (Kind.QUANTITY, _equal_quantities),
    (Kind.RELATION, _equal_relations),
    (Kind.BUILDER, _equal_builders),
    (Kind.LIST, _equal_collections),
    (Kind.SET, _equal_collections),
    *((kind, _equal_regions) for kind in _SET_OPERATIONS),
    (Kind.SEQUENCE, _equal_sequences),
    (Kind.MATRIX, _equal_matrices),
    (Kind.BASED, _equal_based),
    (Kind.RESIDUE, _equal_residues),
]
"""What compares two answers if one of them is of a kind; the first rule that fits."""
