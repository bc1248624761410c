"""One form for what can be said in several: chains cut to what they say, ± written out, matrices calculated."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from tutelage.grading.calculating.numbers import Undefined, as_mpf, is_real
from tutelage.grading.calculating.values import evaluate
from tutelage.grading.comparing.expressions import decimal_of, equal_expressions, is_scalar, rounded_or_cut
from tutelage.grading.comparing.named import name_of
from tutelage.grading.comparing.quantities import with_letter_unit
from tutelage.grading.reading.tree import (
    ELLIPSIS,
    ZERO,
    Kind,
    Node,
    holds,
    negated,
    number,
    product,
    rewritten,
    symbols_of,
    tuple_of,
)

_COLLECTIONS = (
    Kind.LIST, Kind.SET, Kind.SEQUENCE, Kind.UNION, Kind.INTERSECTION, Kind.SETMINUS, Kind.QUANTITY, Kind.BUILDER, Kind.RESIDUE,
)  # fmt: skip


MOST_MEMBERS = 200
"""Members of a list that an ellipsis stands for."""


def simplify(node: Node) -> Node:
    """Chains cut to what they say, brackets around one thing removed, matrices calculated."""
    if node.kind in (Kind.NUMBER, Kind.SYMBOL):
        return node
    match node.kind:
        case Kind.SEQUENCE if len(node.args) == 1 and node.value != ("{", "}"):
            return simplify(node.args[0])
        case Kind.MATRIX if node.value == "cases" and all(len(row) == 1 and row[0].kind is Kind.RELATION for row in node.args):
            return Node(Kind.LIST, tuple(simplify(row[0]) for row in node.args), "and")  # a system of equations
        case Kind.MATRIX:
            return _entries(node, simplify)
        case Kind.POWER if node.args[0].kind is Kind.SEQUENCE and len(node.args[0].args) > 1 and node.args[1].is_symbol("T", "top"):
            return tuple_of(tuple(map(simplify, node.args[0].args)))
        case Kind.CALL if node.value == "det" and len(node.args) == 1 and node.args[0].kind is Kind.MATRIX:
            return Node(Kind.DETERMINANT, node.args[0].args)
        case Kind.LIST if node.args[-1].kind is Kind.RESIDUE and all(map(is_scalar, node.args[1:])):
            return _with_modulus(node)
        case Kind.ADD if (
            len(node.args) == 2 and node.args[0].is_symbol()
            and node.args[1].kind is Kind.NEGATE and node.args[1].args[0].kind is Kind.SET
        ):  # fmt: skip
            return Node(Kind.SETMINUS, (node.args[0], node.args[1].args[0]))
        case Kind.ADD if len(node.args) == 2 and (line := _line(*node.args)) is not None:
            return line
        case Kind.LIST if node.value == "or" and all(map(is_scalar, node.args)):
            return _without_repetitions(node)
        case Kind.LIST if node.args[0].kind is Kind.RELATION and node.args[0].value == ("!=",) and all(map(is_scalar, node.args[1:])):
            name, first = node.args[0].args  # x ≠ 1, -1
            return Node(Kind.LIST, tuple(Node(Kind.RELATION, (name, value), ("!=",)) for value in (first, *node.args[1:])), node.value)
        case kind if kind in _COLLECTIONS:
            parts = tuple(map(simplify, _spelled_out(node.args)))
            if kind is Kind.LIST:  # x = y = 2, z = -1
                parts = tuple(one for part in parts for one in (part.args if part.kind is kind and part.value == "chain" else (part,)))
            if kind is Kind.QUANTITY and parts[0].kind is Kind.QUANTITY:  # \$5 million: the inner unit stays
                return Node(kind, parts[0].args, f"{parts[0].value} {node.value}")
            return Node(kind, parts, node.value)
        case Kind.RELATION:
            return _simplify_relation(node)
        case Kind.ADD | Kind.MULTIPLY | Kind.NEGATE | Kind.POWER | Kind.DIVIDE if holds(node, Kind.MATRIX):
            return _matrix_arithmetic(node.kind, list(map(simplify, node.args))) or node
        case Kind.ADD | Kind.MULTIPLY | Kind.NEGATE if symbols_of(node) & set(_UNIT_VECTORS):
            return _vector(node)
    return node


def _line(point: Node, step: Node) -> Node | None:
    """(1, 2) + t(3, 4) as (1 + 3t, 2 + 4t)."""
    if step.kind is Kind.MULTIPLY and step.args[1].kind is Kind.SEQUENCE:
        letter, direction = step.args[0], step.args[1].args
    elif step.kind is Kind.APPLY:
        letter, *direction = step.args
    else:
        return None
    if point.kind is not Kind.SEQUENCE or len(point.args) != len(direction) or len(direction) < 2 or not is_scalar(letter):
        return None
    return tuple_of(tuple(Node(Kind.ADD, (start, product(letter, along))) for start, along in zip(point.args, direction, strict=True)))


def _spelled_out(parts: tuple[Node, ...]) -> tuple[Node, ...]:
    """1, …, 10 and 2, 4, …, 10 with all their members; as they stand where no step leads from the first number to the last."""
    at = next((index for index, part in enumerate(parts) if part.is_symbol(ELLIPSIS)), 0)
    numbers = [part.value for part in parts if part.kind is Kind.NUMBER]
    if not at or at != len(parts) - 2 or len(numbers) != len(parts) - 1:
        return parts
    step = numbers[1] - numbers[0] if at > 1 else 1
    count = (numbers[-1] - numbers[0]) / step if step else 0
    members = [numbers[0] + step * index for index in range(int(count) + 1)] if 0 < count < MOST_MEMBERS else []
    return tuple(map(number, members)) if members and members[:at] == numbers[:-1] and members[-1] == numbers[-1] else parts


def _with_modulus(node: Node) -> Node:
    """n ≡ 1, 4 (mod 6) as n ≡ 1 (mod 6), n ≡ 4 (mod 6)."""
    last = node.args[-1]
    name = node.args[0].args[0] if node.args[0].kind is Kind.RELATION else None
    values = [node.args[0].args[-1] if name is not None else node.args[0], *node.args[1:-1], last.args[0]]
    if any(holds(value, Kind.RESIDUE) for value in values):
        return node
    residues = (Node(Kind.RESIDUE, (value, last.args[1])) for value in values)
    return Node(Kind.LIST, tuple(part if name is None else Node(Kind.RELATION, (name, part), ("=",)) for part in residues), node.value)


_UNIT_VECTORS = ("hat i", "hat j", "hat k")


def _vector(node: Node) -> Node:
    """2i + 3j as (2, 3), with k of three components."""

    def at(one: str) -> Node:
        return rewritten(node, lambda part: number(int(part.value == one)) if part.is_symbol(*_UNIT_VECTORS) else part)

    def times(count: int) -> Node:
        return rewritten(node, lambda part: number(count) if part.is_symbol(*_UNIT_VECTORS) else part)

    origin, count = at(""), 3 if "hat k" in symbols_of(node) else 2
    sums = [Node(Kind.ADD, tuple(map(at, _UNIT_VECTORS)))] * 2
    alike = ((origin, ZERO), (times(1), sums[0]), (times(2), Node(Kind.ADD, tuple(sums))))
    if not all(equal_expressions(a, b) for a, b in alike):
        return node  # no linear combination
    return tuple_of(tuple(Node(Kind.ADD, (at(name), negated(origin))) for name in _UNIT_VECTORS[:count]))


def _without_repetitions(node: Node) -> Node:
    """3/4 or 0.75 says one thing."""
    kept: list[Node] = []
    for part in map(simplify, node.args):
        if not any(equal_expressions(known, part) for known in kept):
            kept.append(part)
    return kept[0] if len(kept) == 1 else Node(Kind.LIST, tuple(kept), node.value)


def _simplify_relation(node: Node) -> Node:
    """x = 1/3 ≈ 0.333 → x = 1/3; z = 1 + 1 = 2 → z = 2; 9/4 = 2.25 → 9/4; a = b = 1 → a = 1, b = 1; 5 = x → x = 5."""
    members, operators = list(map(simplify, node.args)), list(node.value)
    while operators and operators[-1] == "~" and (len(operators) > 1 or name_of(members[0]) is None):
        if not _about(members[-2], members[-1]):
            return node
        operators.pop()
        members.pop()
    if not operators:
        return members[0]
    if operators == ["~"] and decimal_of(members[1]) is None:
        return node  # x ≈ 5 says of no exact value that it is x
    operators = ["=" if operator == "~" else operator for operator in operators]
    if set(operators) == {"="}:
        names = [member for member in members if name_of(member) is not None]
        values = [member for member in members if name_of(member) is None]
        if len(names) == 1 and values and _consistent(names[0], values):
            members, operators = [names[0], values[-1]], ["="]
        elif len(names) > 1 and values and not symbols_of(values[-1]):
            return Node(Kind.LIST, tuple(Node(Kind.RELATION, (name, values[-1]), ("=",)) for name in names), "chain")
        elif not names:  # 9/4 = 2.25, (x + 1)^2 = x^2 + 2x + 1
            alike = all(equal_expressions(members[0], member) for member in members[1:])
            if not alike:  # x^2 + y^2 = 81 - 32 = 49 says what its left side is
                worked = len(members) > 2 and not any(map(symbols_of, members[-2:])) and equal_expressions(*members[-2:])
                return members[-1] if worked and is_scalar(members[0]) else node
            signed = [member for member in members if member.kind in (Kind.QUANTITY, Kind.PERCENT, Kind.DEGREE)]
            return members[-1] if any(map(symbols_of, members)) else signed[-1] if signed else members[0]
    return Node(Kind.RELATION, tuple(members), tuple(operators))


def _consistent(name: Node, values: list[Node]) -> bool:
    """The members of z = 1 + 1 = 2 are equal; A = bh = 6 says what A is, x = 2y = 6 says more than x = 6."""
    quantity = next((value for value in values if value.kind is Kind.QUANTITY), None)
    values = [with_letter_unit(value, quantity) for value in values] if quantity is not None else values
    numbers = all(map(is_scalar, values)) and not any(map(symbols_of, values))
    variable = any(map(symbols_of, values[:-1])) and name.is_symbol() and name.value.islower()
    return not (numbers or variable) or all(equal_expressions(values[-1], value) for value in values[:-1])


def _about(a: Node, b: Node) -> bool:
    """A number and what it rounds to or is cut to, or two things of which one is no number."""
    try:
        x, y = (as_mpf(evaluate(node)) for node in (a, b))
    except Undefined:
        return True
    unit = Fraction(1, 10 ** (literal.places or 0)) if (literal := decimal_of(b)) is not None else Fraction(1)
    unit /= 100 if b.kind is Kind.PERCENT else 1
    if not is_real(x) or not is_real(y):
        return bool(abs(x - y) <= abs(x) / 100)
    return rounded_or_cut(y, x, unit) or bool(abs(x - y) <= abs(x) / 500)


# --- matrices


def _matrix_arithmetic(kind: str, parts: list[Node]) -> Node | None:
    """A sum, product, multiple or transpose, entry by entry; None if these are not matrices that go together."""
    first, second = parts[0], parts[-1]
    if kind is Kind.ADD and all(part.kind is Kind.MATRIX for part in parts) and len(set(map(shape, parts))) == 1:
        rows = zip(*(part.args for part in parts), strict=True)
        return Node(Kind.MATRIX, tuple(tuple(Node(Kind.ADD, entries) for entries in zip(*row, strict=True)) for row in rows))
    if kind is Kind.MULTIPLY and first.kind is second.kind is Kind.MATRIX:
        columns = list(zip(*second.args, strict=True))
        fitting = shape(first)[1] == shape(second)[0]
        return Node(Kind.MATRIX, tuple(tuple(_dot(row, column) for column in columns) for row in first.args)) if fitting else None
    if kind is Kind.MULTIPLY and second.kind is Kind.MATRIX:
        return _entries(second, lambda entry: product(first, entry))
    if first.kind is not Kind.MATRIX:
        return None
    match kind:
        case Kind.NEGATE:
            return _entries(first, negated)
        case Kind.MULTIPLY:
            return _entries(first, lambda entry: product(second, entry))
        case Kind.DIVIDE:
            return _entries(first, lambda entry: Node(Kind.DIVIDE, (entry, second)))
        case Kind.POWER if second.is_symbol("T", "top"):
            return Node(Kind.MATRIX, tuple(zip(*first.args, strict=True)))
    return None


def shape(matrix: Node) -> tuple[int, int]:
    return len(matrix.args), len(matrix.args[0])


def _entries(matrix: Node, change: Callable[[Node], Node]) -> Node:
    return Node(Kind.MATRIX, tuple(tuple(map(change, row)) for row in matrix.args), matrix.value)


def _dot(row: tuple[Node, ...], column: tuple[Node, ...]) -> Node:
    return Node(Kind.ADD, tuple(product(*pair) for pair in zip(row, column, strict=True)))


# --- plus-minus


def expand(node: Node) -> Node:
    """± written out: 1 ± √2 is a list of two; x = ±3 is x = 3, x = -3; {1 ± √5, 2} is a set of three."""
    if node.kind in (Kind.LIST, Kind.SET):
        return Node(node.kind, tuple(expanded for part in node.args for expanded in _signs(part)), node.value)
    if node.kind is Kind.RELATION and node.value == ("in",) and node.args[1].kind is Kind.SET:
        return Node(node.kind, (node.args[0], expand(node.args[1])), node.value)
    signs = _signs(node)
    return node if len(signs) == 1 else Node(Kind.LIST, tuple(signs))


def _signs(node: Node) -> list[Node]:
    if not holds(node, Kind.PLUSMINUS):
        return [node]
    plus = rewritten(node, lambda part: _signed(part, "pm") if part.kind is Kind.PLUSMINUS else part)
    minus = rewritten(node, lambda part: _signed(part, "mp") if part.kind is Kind.PLUSMINUS else part)
    return [plus, minus]


def _signed(part: Node, positive: str) -> Node:
    """The term of ± or ∓ with the sign that it has where `positive` is plus."""
    return part.args[0] if (part.value or "pm") == positive else negated(part.args[0])
