"""Are two trees the same answer? Structure first (kind, brackets, arity, then the elements), expressions by their values."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from tutelage.grading.reader import Node
from tutelage.grading.values import (
    CONSTANTS,
    DIGITS,
    MANY_DIGITS,
    Undefined,
    close,
    evaluate,
    is_real,
    kinds_of,
    points,
    symbols_of,
)

MAX_ELEMENTS = 200
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!=", "~": "~"}


def equal(gold: Node, answer: Node) -> bool:
    """Whether a careful human would call the two the same answer.

    Raises:
        TooLarge: a limit of evaluation was met.
    """
    gold, answer = (_expand(simplify(node)) for node in (gold, answer))
    return _equal(gold, answer)


def is_scalar(node: Node) -> bool:
    """One expression, and no list, set, relation or matrix anywhere in it."""
    kinds = {kind for kind, _ in kinds_of(node)}
    return not kinds & {"relation", "list", "set", "matrix", "union", "intersection", "setminus", "plusminus"} and not (
        node.kind == "sequence" and len(node.args) > 1
    )


def has_opaque(node: Node) -> bool:
    """Something in it is compared by its parts and not evaluated."""
    return any(kind == "opaque" and value != "mod" for kind, value in kinds_of(node))


# --- one form for what can be said in several


def simplify(node: Node) -> Node:
    """Chains cut to what they say, brackets around one thing removed, matrices calculated."""
    if node.kind == "sequence" and len(node.args) == 1 and node.value != ("{", "}"):
        return simplify(node.args[0])
    if node.kind == "matrix":
        return Node("matrix", tuple(tuple(simplify(entry) for entry in row) for row in node.args), node.value)
    if node.kind in ("list", "set", "sequence", "union", "intersection", "setminus", "quantity"):
        parts = tuple(simplify(part) for part in node.args)
        if node.kind == "quantity" and parts[0].kind == "quantity":  # \$5 million: the inner unit stays
            return Node("quantity", parts[0].args, f"{parts[0].value} {node.value}")
        return Node(node.kind, parts, node.value)
    if node.kind == "relation":
        return _simplify_relation(node)
    if node.kind in ("add", "multiply", "negate", "power", "divide") and any(kind == "matrix" for kind, _ in kinds_of(node)):
        return _matrix_arithmetic(node)
    return node


def _simplify_relation(node: Node) -> Node:
    """x = 1/3 ≈ 0.333 → x = 1/3; z = 1 + 1 = 2 → z = 2; 5 = x → x = 5; x ∈ [1, 2) stays as its set with its name."""
    members, operators = [simplify(part) for part in node.args], list(node.value)
    while operators and operators[-1] == "~" and (len(operators) > 1 or _name(members[0]) is None):
        operators.pop()
        members.pop()
    if not operators:
        return members[0]
    operators = ["=" if operator == "~" else operator for operator in operators]
    if set(operators) == {"="}:
        if len(members) == 2 and _name(members[0]) is None and _name(members[1]) is not None:
            members.reverse()
        if _name(members[0]) is not None or all(not symbols_of(member) for member in members):
            first = next((member for member in members if _name(member) is not None), members[0])
            members, operators = [first, members[-1]], ["="]
    if operators == ["="] and all(member.kind == "sequence" for member in members) and len(members[0].args) == len(members[1].args):
        pass  # (x, y) = (1, 2) keeps its tuple of names
    return Node("relation", tuple(members), tuple(operators))


def _matrix_arithmetic(node: Node) -> Node:
    """Sums, products and multiples of matrices, entry by entry."""
    parts = [simplify(part) for part in node.args]
    if node.kind == "negate":
        return _entries(parts[0], lambda entry: Node("negate", (entry,)))
    if node.kind == "add" and all(part.kind == "matrix" for part in parts) and len({_shape(part) for part in parts}) == 1:
        rows = zip(*(part.args for part in parts), strict=True)
        return Node("matrix", tuple(tuple(Node("add", entries) for entries in zip(*row, strict=True)) for row in rows))
    if node.kind == "multiply":
        left, right = parts
        if left.kind == right.kind == "matrix":
            if _shape(left)[1] != _shape(right)[0]:
                return node
            columns = list(zip(*right.args, strict=True))
            return Node("matrix", tuple(tuple(_dot(row, column) for column in columns) for row in left.args))
        if left.kind == "matrix" or right.kind == "matrix":
            matrix, factor = (left, right) if left.kind == "matrix" else (right, left)
            return _entries(matrix, lambda entry: Node("multiply", (factor, entry)))
    if node.kind == "divide" and parts[0].kind == "matrix":
        return _entries(parts[0], lambda entry: Node("divide", (entry, parts[1])))
    if node.kind == "power" and parts[0].kind == "matrix" and parts[1] in (Node("symbol", (), "T"), Node("symbol", (), "top")):
        return Node("matrix", tuple(zip(*parts[0].args, strict=True)))
    return node


def _shape(matrix: Node) -> tuple[int, int]:
    return len(matrix.args), len(matrix.args[0])


def _entries(matrix: Node, change: Callable[[Node], Node]) -> Node:
    return Node("matrix", tuple(tuple(change(entry) for entry in row) for row in matrix.args))


def _dot(row: tuple[Node, ...], column: tuple[Node, ...]) -> Node:
    return Node("add", tuple(Node("multiply", pair) for pair in zip(row, column, strict=True)))


def _expand(node: Node) -> Node:
    """± written out: 1 ± √2 is a list of two; x = ±3 is x = 3, x = -3; {1 ± √5, 2} is a set of three."""
    if node.kind in ("list", "set"):
        parts = [expanded for part in node.args for expanded in _signs(part)]
        return Node(node.kind, tuple(parts), node.value)
    signs = _signs(node)
    return node if len(signs) == 1 else Node("list", tuple(signs))


def _signs(node: Node) -> list[Node]:
    if not any(kind == "plusminus" for kind, _ in kinds_of(node)):
        return [node]
    both = [_with_sign(node, negative) for negative in (False, True)]
    return [_expand(part) if part.kind == "list" else part for part in both]


def _with_sign(node: Any, negative: bool) -> Any:
    if isinstance(node, tuple):
        return tuple(_with_sign(part, negative) for part in node)
    if not isinstance(node, Node):
        return node
    args = tuple(_with_sign(part, negative) for part in node.args)
    if node.kind == "plusminus":
        return Node("negate", args) if negative else args[0]
    return Node(node.kind, args, node.value, node.places)


# --- names: the left side of "x = 5"


def _name(node: Node) -> str | None:
    """x, f(x), AB, |AB|, \\angle ABC, V_1 : V_2, (x, y), sin A: what only says which quantity is meant; None for anything else."""
    match node.kind:
        case "symbol":
            return None if node.value in CONSTANTS and node.value != "e" else str(node.value)
        case "apply":
            return f"{node.args[0].value}()"
        case "multiply":
            parts = [_name(part) for part in node.args]
            whole = "".join(part or "?" for part in parts)
            geometric = re.sub(r"angle|triangle|bar |vec |[\d_{}']", "", whole)
            return whole if None not in parts and (geometric.isupper() or not geometric) else None
        case "call":
            inner = _name(node.args[0]) if len(node.args) == 1 else None
            return f"{node.value}({inner})" if inner else None
        case "ratio" | "divide":
            parts = [_name(part) for part in node.args]
            if None in parts or (node.kind == "divide" and not all(part and any(map(str.isupper, part)) for part in parts)):
                return None
            return ":".join(part or "" for part in parts)
        case "sequence":
            parts = [_name(part) for part in node.args]
            return f"({','.join(part or '' for part in parts)})" if None not in parts and len(parts) > 1 else None
    return None


def _assignment(node: Node) -> tuple[str, Node] | None:
    """(name, value) of "name = value"."""
    if node.kind == "relation" and node.value == ("=",) and (name := _name(node.args[0])) is not None:
        return name, node.args[1]
    return None


def _same_name(a: str, b: str) -> bool:
    """The same quantity: f(x) and f(n), f(x) and y, the same letters in either case of spacing."""
    if a == b:
        return True
    functions = [name.endswith("()") for name in (a, b)]
    return any(functions) and (all(functions) or {a, b} & {"y", "Y"} != set())


# --- equality


def _equal(gold: Node, answer: Node) -> bool:
    if gold == answer and gold.places == answer.places:
        return True
    for a, b in ((gold, answer), (answer, gold)):
        if a.kind == "quantity":
            return _equal_quantity(gold, answer)
        if a.kind in ("list", "set") and len(a.args) == 1 and b.kind not in ("list", "set"):
            return _equal(gold.args[0], answer) if a is gold else _equal(gold, answer.args[0])
    if "relation" in (gold.kind, answer.kind):
        return _equal_relations(gold, answer)
    if "list" in (gold.kind, answer.kind) or "set" in (gold.kind, answer.kind):
        return _equal_collections(gold, answer)
    region_kinds = ("union", "intersection", "setminus")
    if gold.kind in region_kinds or answer.kind in region_kinds or {gold.kind, answer.kind} == {"sequence", "symbol"}:
        return _equal_regions(gold, answer)
    if gold.kind == "sequence" or answer.kind == "sequence":
        return _equal_sequences(gold, answer)
    if "matrix" in (gold.kind, answer.kind):
        return (
            gold.kind == answer.kind and gold.value == answer.value and _shape(gold) == _shape(answer)
            and all(_equal(a, b) for row, other in zip(gold.args, answer.args, strict=True) for a, b in zip(row, other, strict=True))
        )  # fmt: skip
    if "based" in (gold.kind, answer.kind):
        return _equal_based(gold, answer)
    if gold.kind == answer.kind == "ratio":
        return len(gold.args) == len(answer.args) and proportional_parts(gold.args, answer.args)
    return equal_expressions(gold, answer)


def _ordered(gold: tuple[Node, ...], answer: tuple[Node, ...]) -> bool:
    return len(gold) == len(answer) and all(_equal(a, b) for a, b in zip(gold, answer, strict=True))


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


def _distinct(items: tuple[Node, ...]) -> tuple[Node, ...]:
    kept: list[Node] = []
    for item in items:
        if item not in kept:
            kept.append(item)
    return tuple(kept)


def _equal_collections(gold: Node, answer: Node) -> bool:
    """Bare lists and sets have no order, tuples have; named values are compared by their names."""
    if max(len(gold.args), len(answer.args)) > MAX_ELEMENTS:
        return False
    named = [_named_values(node) for node in (gold, answer)]
    by_name = [values if values is not None and len(dict(values)) == len(values) else None for values in named]
    if by_name[0] is not None and by_name[1] is not None and len(by_name[0]) > 1:
        return _equal_named(by_name[0], by_name[1])
    if (by_name[0] is None) != (by_name[1] is None) and not _one_family(by_name[0] or by_name[1] or []):
        values = [
            tuple(value for _, value in pairs) if pairs is not None else _elements(node)
            for pairs, node in zip(by_name, (gold, answer), strict=True)
        ]
        return _ordered(values[0], values[1])
    items = [_unnamed(node) for node in (gold, answer)]
    kinds = {gold.kind, answer.kind}
    if kinds <= {"list", "set"}:
        repeats_count = kinds == {"list"} and all(is_scalar(item) for side in items for item in side)
        sides = items if repeats_count else [_distinct(side) for side in items]
        return _unordered(sides[0], sides[1])
    other = answer if gold.kind in ("list", "set") else gold
    if other.kind == "sequence" and (other.value == ("(", ")") or other.value == ("[", "]") and len(other.args) != 2):
        return _ordered(*items)
    if other.kind == "matrix":
        return False
    region = {"union", "setminus", "intersection"}
    return other.kind in region and _equal_regions(gold, answer)


def _elements(node: Node) -> tuple[Node, ...]:
    return node.args if node.kind in ("list", "set", "sequence") else (node,)


def _unnamed(node: Node) -> tuple[Node, ...]:
    """The elements without their names; a group of named values (p = 5, q = 2) becomes a tuple."""
    plain = []
    for element in _elements(node):
        if element.kind == "list" and (pairs := _named_values(element)) is not None:
            element = Node("sequence", tuple(value for _, value in pairs), ("(", ")"))
        elif (pair := _assignment(element)) is not None:
            element = pair[1]
        plain.append(element)
    flat = [part for element in plain for part in (element.args if element.kind in ("list", "set") and node.kind == "list" else (element,))]
    return tuple(flat)


def _named_values(node: Node) -> list[tuple[str, Node]] | None:
    """The (name, value) of each element if all are named; (x, y) = (1, 2) names both."""
    found: list[tuple[str, Node]] = []
    for element in node.args if node.kind in ("list", "set") else (node,):
        pair = _assignment(element)
        if pair is None:
            return None
        names = element.args[0]
        if names.kind == "sequence" and pair[1].kind == "sequence" and len(names.args) == len(pair[1].args):
            found += [(_name(name) or "", value) for name, value in zip(names.args, pair[1].args, strict=True)]
        else:
            found.append(pair)
    return found


def _one_family(pairs: list[tuple[str, Node]]) -> bool:
    """x_1, x_2: one name with subscripts (or one name again and again), whose order means nothing."""
    return len({re.split("_|'", name)[0] for name, _ in pairs}) == 1


def _equal_named(gold: list[tuple[str, Node]], answer: list[tuple[str, Node]]) -> bool:
    if {name for name, _ in gold} == {name for name, _ in answer}:
        others = dict(answer)
        return all(_equal(value, others[name]) for name, value in gold)
    return len(gold) == len(answer) and _one_family(gold) and _one_family(answer) and _unordered(
        tuple(value for _, value in gold), tuple(value for _, value in answer)
    )  # fmt: skip


def _equal_sequences(gold: Node, answer: Node) -> bool:
    """Tuples by place; for two numbers the brackets count, since they may be an interval; a column is a tuple too."""
    sides = []
    for node in (gold, answer):
        if node.kind == "matrix" and 1 in _shape(node) and node.value is None:
            node = Node("sequence", tuple(entry for row in node.args for entry in row), ("(", ")"))
        sides.append(node)
    gold, answer = sides
    if gold.kind != answer.kind:
        rows = gold if gold.kind == "sequence" else answer
        if "matrix" in (gold.kind, answer.kind) and all(row.kind == "sequence" for row in rows.args):
            matrix = Node("matrix", tuple(row.args for row in rows.args))
            return _equal(matrix, answer) if rows is gold else _equal(gold, matrix)
        return False
    if len(gold.args) != len(answer.args) or (gold.value != answer.value and len(gold.args) == 2):
        return False
    return _ordered(gold.args, answer.args)


def _equal_based(gold: Node, answer: Node) -> bool:
    """52_8 is 52_8, and 52 where the question has said the base; never a number in another base."""
    if gold.kind == answer.kind:
        return _in_base(gold) == _in_base(answer)
    based, other = (gold, answer) if gold.kind == "based" else (answer, gold)
    return other.kind == "number" and other.places is None and str(other.value) == based.value[0]


_BASE_WORDS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "twelve": 12, "sixteen": 16}


def _in_base(node: Node) -> tuple[Any, ...]:
    digits, base = node.value
    number = _BASE_WORDS.get(base) or (int(base) if base.isdigit() else 0)
    try:
        return ("value", int(digits, number)) if 2 <= number <= 36 else ("written", digits, base)
    except ValueError:
        return ("written", digits, base)


def _equal_quantity(gold: Node, answer: Node) -> bool:
    """A unit may be left out, but two units must be the same."""
    units = [_unit(node.value) if node.kind == "quantity" else None for node in (gold, answer)]
    if units[0] and units[1] and units[0] != units[1]:
        return False
    inner = [node.args[0] if node.kind == "quantity" else node for node in (gold, answer)]
    return _equal(inner[0], inner[1])


_UNIT_NAMES = {
    "centimeter": "cm", "centimetre": "cm", "millimeter": "mm", "millimetre": "mm", "meter": "m", "metre": "m", "kilometer": "km", "kilometre": "km", "inch": "in", "inche": "in",
    "feet": "ft", "foot": "ft", "yard": "yd", "mile": "mi", "gram": "g", "kilogram": "kg", "pound": "lb", "ounce": "oz", "liter": "l", "litre": "l", "milliliter": "ml",
    "second": "s", "sec": "s", "minute": "min", "hour": "h", "hr": "h", "dollar": "$", "usd": "$", "buck": "$", "cent": "¢", "sq": "square", "mph": "mi/h", "kph": "km/h",
    "kmh": "km/h", "people": "person", "squared": "^2", "cubed": "^3", "per": "/",
}  # fmt: skip


def _unit(words: str) -> str:
    """One spelling of a unit: cm, centimeter(s); square cm and cm^2; what only counts ("units", "th grade") is no unit."""
    found = []
    for word in re.findall(r"[A-Za-z]+|\^?\d+|[/$]", words.lower()):
        singular = word[:-1] if word.endswith("s") and len(word) > 2 and not word.endswith("ss") else word
        found.append(_UNIT_NAMES.get(singular, _UNIT_NAMES.get(word, singular)))
    for power, name in (("^2", "square"), ("^3", "cubic")):
        if name in found:
            found = [word for word in found if word != name] + [power]
    found = [word for word in found if word not in ("unit", "of", "the", "a", "th", "st", "nd", "rd", "exactly", "about")]
    return "" if not [word for word in found if not word.startswith("^")] else "".join(found)


# --- relations


def _equal_relations(gold: Node, answer: Node) -> bool:
    named = [_assignment(node) for node in (gold, answer)]
    if named[0] is not None and named[1] is not None:
        if _same_name(named[0][0], named[1][0]):
            return _equal(named[0][1], named[1][1])
        if symbols_of(named[0][1]) or symbols_of(named[1][1]):
            return _equal_equations(gold, answer)
        return False
    for pair, node, other in ((named[0], gold, answer), (named[1], answer, gold)):
        if pair is not None and other.kind != "relation":
            if other.kind == "list" or (other.kind == "sequence" and node.args[0].kind == "sequence"):
                return _equal_collections(gold, answer) if other.kind == "list" else _equal_as(node is gold, pair[1], other)
            return _equal_as(node is gold, pair[1], other)
    membership = [_membership(node) for node in (gold, answer)]
    if membership[0] is not None or membership[1] is not None:
        sides = [inner or node for inner, node in zip(membership, (gold, answer), strict=True)]
        return _equal(sides[0], sides[1])
    if gold.kind == answer.kind == "relation":
        if set(gold.value) | set(answer.value) <= {"="}:
            return _equal_equations(gold, answer)
        if gold.value == answer.value and len(gold.args) == len(answer.args) and _ordered(gold.args, answer.args):
            return True
        return _equal_inequalities(gold, answer) or _equal_regions(gold, answer)
    relation, other = (gold, answer) if gold.kind == "relation" else (answer, gold)
    if set(relation.value) & {"<", ">", "<=", ">=", "!="}:
        return other.kind in ("sequence", "union", "setminus", "intersection", "list", "set") and _equal_regions(gold, answer)
    return False


def _equal_as(gold_is_named: bool, value: Node, other: Node) -> bool:
    return _equal(value, other) if gold_is_named else _equal(other, value)


def _membership(node: Node) -> Node | None:
    """The set of "x ∈ set"."""
    if node.kind == "relation" and node.value == ("in",) and _name(node.args[0]) is not None:
        return node.args[1]
    return None


def _difference(node: Node) -> Node:
    return Node("add", (node.args[0], Node("negate", (node.args[1],))))


def _equal_equations(gold: Node, answer: Node) -> bool:
    """L = R and a multiple of it are one equation: the quotient of the two differences is one number."""
    if len(gold.args) != 2 or len(answer.args) != 2:
        return _unordered(gold.args, answer.args)
    factor = _constant_factor(_difference(gold), _difference(answer))
    return factor is not None


def _constant_factor(a: Node, b: Node) -> Any:
    """The number c with a = c·b at all points, or None."""
    if not is_scalar(a) or not is_scalar(b) or symbols_of(a) != symbols_of(b) or not symbols_of(a):
        return None
    factor, used = None, 0
    for at in points(symbols_of(a), 24):
        try:
            x, y = evaluate(a, at), evaluate(b, at)
        except Undefined:
            continue
        if x == 0 or y == 0 or not is_real(x) or not is_real(y):
            continue
        quotient = x / y if isinstance(x, Fraction) and isinstance(y, Fraction) else _mp(x) / _mp(y)
        if factor is not None and not _nearly(quotient, factor):
            return None
        factor, used = quotient, used + 1
        if used == 6:
            break
    return factor if used >= 3 else None


def _mp(number: Any) -> Any:
    from tutelage.grading.values import _CONTEXTS

    return _CONTEXTS[DIGITS].mpf(number.numerator) / number.denominator if isinstance(number, Fraction) else number


def _nearly(a: Any, b: Any) -> bool:
    """Agreement at a point, where digits may have cancelled: exact for rationals, otherwise 30 digits."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    x, y = _mp(a), _mp(b)
    return bool(abs(x - y) <= 10**-30 * max(abs(x), abs(y)) or abs(x - y) <= 10**-42)


def _equal_inequalities(gold: Node, answer: Node) -> bool:
    """x + y < 3 and 6 - 2y > 2x: one is a positive multiple of the other, or a negative one with the sign turned."""
    if len(gold.args) != 2 or len(answer.args) != 2 or gold.kind != answer.kind:
        return False
    factor = _constant_factor(_difference(gold), _difference(answer))
    operator = answer.value[0]
    return factor is not None and gold.value[0] == (operator if factor > 0 else _FLIPPED.get(operator))


# --- regions of the real line


def _equal_regions(gold: Node, answer: Node) -> bool:
    """Unions, intervals and inequalities in one variable: the same truth at every boundary, between them and far out."""
    sides = [_flat_union(node) for node in (gold, answer)]
    if all(part.kind in ("sequence", "set", "list") for side in sides for part in side) and _unordered(tuple(sides[0]), tuple(sides[1])):
        return True
    names = {name for name in symbols_of(gold) | symbols_of(answer) if not name.startswith(("mathbb", "emptyset"))}
    variables = [_variables(node) for node in (gold, answer)]
    if variables[0] and variables[1] and variables[0] != variables[1]:
        return False
    variable = next(iter(variables[0] | variables[1]), "")
    if names - {variable} or len(variables[0] | variables[1]) > 1:
        return _symbolic_interval(gold, answer)
    boundaries = sorted({b for node in (gold, answer) for b in _boundaries(node, variable)}, key=_mp)
    boundaries = boundaries or [Fraction(0)]
    tests = [boundaries[0] - 7, boundaries[0] - Fraction(1, 997), *boundaries, boundaries[-1] + Fraction(1, 997), boundaries[-1] + 7]
    tests += [(_mp(a) + _mp(b)) / 2 for a, b in zip(boundaries, boundaries[1:], strict=False)]
    tests += [point["x"] * 3 for point in points({"x"}, 40)]
    try:
        return all(_holds(gold, test, variable) == _holds(answer, test, variable) for test in tests)
    except Undefined:
        return False


def _flat_union(node: Node) -> list[Node]:
    if node.kind == "union":
        return [part for side in node.args for part in _flat_union(side)]
    return [node]


def _variables(node: Node) -> set[str]:
    """What the relations in it speak about: their only symbol, or the name f(x) between two bounds."""
    if node.kind == "relation":
        middles = [part for part in node.args if symbols_of(part)]
        if len(middles) == 1 and (name := _name(middles[0])) is not None and not name.startswith("abs"):
            return {name}
        return symbols_of(node)
    if node.kind == "symbol" and node.value.startswith(("mathbb", "emptyset")):
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
            return (all if _all_strict_parts(node) else any)(_holds(part, at, variable) for part in node.args)
        case "setminus":
            return _holds(node.args[0], at, variable) and not _holds(node.args[1], at, variable)
        case "set":
            return any(close(_mp(evaluate(part)), _mp(at)) for part in node.args)
        case "sequence" if len(node.args) == 2:
            low, high = (evaluate(part) for part in node.args)
            left = node.value[0] == "[" if _same_point(low, at) else bool(_mp(low) < _mp(at))
            right = node.value[1] == "]" if _same_point(high, at) else bool(_mp(at) < _mp(high))
            return left and right
        case "relation":
            values = [at if _name(part) == variable else evaluate(part, {variable: at}) for part in node.args]
            return all(_related(a, operator, b) for a, operator, b in zip(values, node.value, values[1:], strict=False))
        case "symbol" if node.value == "mathbb R":
            return True
        case "symbol" if node.value == "emptyset":
            return False
    raise Undefined(f"a {node.kind} is no region")


def _all_strict_parts(node: Node) -> bool:
    """x > 1, x ≠ 3: conditions that hold together, as against x < 1 or x > 3; read as "or" when no number satisfies all."""
    return any(part.kind == "relation" and "!=" in part.value for part in node.args)


def _same_point(a: Any, b: Any) -> bool:
    return close(_mp(a), _mp(b))


def _related(a: Any, operator: str, b: Any) -> bool:
    if not is_real(a) or not is_real(b):
        return False
    x, y = (_mp(value).real if not isinstance(value, Fraction) else _mp(value) for value in (a, b))
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


def _symbolic_interval(gold: Node, answer: Node) -> bool:
    """a < x < b and (a, b), where the bounds are not numbers."""
    sides = [_as_interval(node) for node in (gold, answer)]
    return sides[0] is not None and sides[1] is not None and sides[0].kind == sides[1].kind and _equal_sequences(sides[0], sides[1])


def _as_interval(node: Node) -> Node | None:
    if node.kind == "sequence":
        return node
    if node.kind != "relation" or not set(node.value) <= {"<", "<=", ">", ">="}:
        return None
    args, operators = node.args, node.value
    if all(operator[0] == ">" for operator in operators):
        args, operators = args[::-1], tuple(_FLIPPED[operator] for operator in reversed(operators))
    infinity = Node("symbol", (), "infty")
    if len(args) == 2 and _name(args[0]) is not None:
        args, operators = (Node("negate", (infinity,)), *args), ("<", *operators)
    elif len(args) == 2:
        args, operators = (*args, infinity), (*operators, "<")
    brackets = ("[" if operators[0] == "<=" else "(", "]" if operators[-1] == "<=" else ")")
    return Node("sequence", (args[0], args[-1]), brackets) if len(args) == 3 and _name(args[1]) is not None else None


# --- expressions


def proportional_parts(gold: tuple[Node, ...], answer: tuple[Node, ...]) -> bool:
    """1 : 2 and 2 : 4 are one ratio."""
    first = [Node("multiply", (part, answer[0])) for part in gold]
    second = [Node("multiply", (part, gold[0])) for part in answer]
    return all(equal_expressions(a, b) for a, b in zip(first, second, strict=True)) and not _is_zero(answer[0])


def _is_zero(node: Node) -> bool:
    return node.kind == "number" and node.value == 0


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
    if any(value == "log" for node in (gold, answer) for _, value in kinds_of(node)):
        return _same_function(gold, answer, 10)
    return _rounds_to(gold, answer)


def _readings(gold: Node, answer: Node) -> list[tuple[Node, Node]]:
    pairs = [(gold, answer)]
    for a, b, flip in ((gold, answer, False), (answer, gold, True)):
        if a.kind == "percent" and b.kind != "percent":
            pairs.append((b, a.args[0]) if flip else (a.args[0], b))
        if a.kind == "degree" and b.kind != "degree" and any(value == "pi" for _, value in kinds_of(b)):
            radians = Node("divide", (Node("multiply", (a.args[0], Node("symbol", (), "pi"))), Node("number", (), Fraction(180))))
            pairs.append((b, radians) if flip else (radians, b))
    return pairs


def _same_function(a: Node, b: Node, log_base: int | None) -> bool:
    names = symbols_of(a) | symbols_of(b)
    if not names:
        return _same_constant(a, b, log_base)
    complex_values = any(node_value == "i" for node in (a, b) for _, node_value in kinds_of(node))
    for real_only in (True, False) if not complex_values else (False,):
        used = 0
        for at in points(names, 30):
            try:
                x, y = evaluate(a, at, log_base=log_base), evaluate(b, at, log_base=log_base)
            except Undefined:
                continue
            if real_only and not (is_real(x) and is_real(y)):
                continue
            if not _nearly(x, y):
                return False
            used += 1
            if used == 6:
                break
        if used >= 3:
            return True
    return False


def _same_constant(a: Node, b: Node, log_base: int | None) -> bool:
    """Two numbers: exactly if both are rational; otherwise at 50 digits, and if they agree there or vanish, at 400."""
    try:
        for digits in (DIGITS, MANY_DIGITS):
            x, y = (evaluate(node, None, digits, log_base) for node in (a, b))
            if isinstance(x, Fraction) and isinstance(y, Fraction):
                return x == y
            if not close(x, y, digits) and abs(_mp(x) - _mp(y)) > 10**-40:
                return False
        return close(x, y, MANY_DIGITS) or bool(abs(_mp(x) - _mp(y)) < 10**-380)
    except Undefined:
        return False


def _rounds_to(gold: Node, answer: Node) -> bool:
    """The stated tolerance. A reference written as a decimal with at least three digits is met by what rounds to it; an exact
    reference is met by a decimal only when that has twelve digits or more and is its rounding, as a machine prints a number."""
    try:
        x, y = evaluate(gold), evaluate(answer)
    except Undefined:
        return False
    if not is_real(x) or not is_real(y) or symbols_of(gold) or symbols_of(answer):
        return False
    places, number = _decimal_places(gold), gold
    if places is None:
        places, number = _decimal_places(answer), answer
        if places is None or _significant(number) < 12:
            return False
    elif _significant(number) < 3 or (_decimal_places(answer) or 99) <= places:
        return False
    half = Fraction(1, 2 * 10**places) * _scale(number)
    return bool(abs(_mp(x) - _mp(y)) <= _mp(half) * (1 + 10**-9))


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
