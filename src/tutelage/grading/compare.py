"""Are two trees the same answer? Structure first: kind, brackets, arity, then the elements."""

from __future__ import annotations

import re
from typing import Any

from tutelage.grading.canonical import assignment, expand, name_of, parameters, renamed, shape, simplify
from tutelage.grading.expressions import constant_factor, equal_expressions, is_scalar
from tutelage.grading.regions import FLIPPED, ZERO, as_interval, flat_union, same_region
from tutelage.grading.tree import Node, kinds_of, symbols_of
from tutelage.grading.units import unit_of
from tutelage.grading.words import number_of

MAX_ELEMENTS = 200
SIGNS = ("percent", "degree")


def equal(gold: Node, answer: Node) -> bool:
    """Whether a careful human would call the two the same answer.

    Raises:
        TooLarge: a limit of evaluation was met.
    """
    gold, answer = (expand(simplify(node)) for node in (gold, answer))
    both_builders = gold.kind == answer.kind == "builder"
    gold, answer = (_neutral(node, both_builders) for node in (gold, answer))
    return _equal(_only_element(gold, answer), _only_element(answer, gold))


def _only_element(node: Node, other: Node) -> Node:
    """The 5 of {5}, where the other side is no collection."""
    if node.kind not in ("list", "set") or len(node.args) != 1 or other.kind in ("list", "set"):
        return node
    return node.args[0] if other.kind != "sequence" or node.args[0].kind == "sequence" else node


def has_opaque(node: Node) -> bool:
    """Something in it is compared by its parts and not evaluated."""
    return any(kind == "opaque" and value != "mod" for kind, value in kinds_of(node))


def _neutral(node: Node, both_builders: bool) -> Node:
    """x = kπ, k ∈ ℤ and {2k : k ∈ ℤ} with neutral names for the letters that only count."""
    if both_builders and node.args[0].kind == "symbol":
        return renamed(node, {node.args[0].value: "x•"})
    return renamed(node, parameters(node)) if node.kind in ("list", "builder") else node


def _same_name(a: str, b: str) -> bool:
    """The same quantity: f(x) and f(n) have one head; a function may also be called y."""
    return a == b or {a, b} in ({"y", "f()"}, {"y", "g()"}, {"y", "h()"})


def _equal(gold: Node, answer: Node) -> bool:
    if gold == answer and gold.places == answer.places:
        return True
    kinds = (gold.kind, answer.kind)
    if "quantity" in kinds:
        return _equal_quantity(gold, answer)
    if "relation" in kinds:
        return _equal_relations(gold, answer)
    if "list" in kinds or "set" in kinds:
        return _equal_collections(gold, answer)
    if "builder" in kinds:
        return _equal_builders(gold, answer)
    if {*kinds} & {"union", "intersection", "setminus"} or {*kinds} == {"sequence", "symbol"}:
        return _equal_regions(gold, answer)
    if "sequence" in kinds:
        return _equal_sequences(gold, answer)
    if "matrix" in kinds:
        return _equal_matrices(gold, answer)
    if "based" in kinds:
        return _equal_based(gold, answer)
    if "residue" in kinds:
        return _equal_residues(gold, answer)
    if kinds == ("ratio", "ratio"):
        return len(gold.args) == len(answer.args) and proportional_parts(gold.args, answer.args)
    return equal_expressions(gold, answer)


def _equal_matrices(gold: Node, answer: Node) -> bool:
    """Entry by entry; the cases of a definition have no order."""
    if gold.kind != answer.kind or gold.value != answer.value or shape(gold) != shape(answer):
        return False
    rows = [tuple(Node("sequence", row, ("(", ")")) for row in node.args) for node in (gold, answer)]
    return _unordered(*rows) if gold.value == "cases" else all(map(_ordered, gold.args, answer.args))


def _equal_residues(gold: Node, answer: Node) -> bool:
    """2 (mod 5) is 7 (mod 5), and nothing in another modulus."""
    if gold.kind != answer.kind or not _equal(gold.args[1], answer.args[1]):
        return False
    remainder = Node("opaque", (_difference(gold.args[0], answer.args[0]), gold.args[1]), "mod")
    return equal_expressions(remainder, ZERO) or _equal(gold.args[0], answer.args[0])


def _equal_builders(gold: Node, answer: Node) -> bool:
    """{x | x > 3} is a region of the real line; any other is the same when its element and its conditions are."""
    if gold.kind == answer.kind:
        return _equal(gold.args[0], answer.args[0]) and _unordered(gold.args[1:], answer.args[1:])
    builder, other = (gold, answer) if gold.kind == "builder" else (answer, gold)
    element, *conditions = builder.args
    if element.kind == "relation" and element.value == ("in",) and element.args[1] == Node("symbol", (), "mathbb R"):
        element = element.args[0]
    if element.kind != "symbol" or len(conditions) != 1 or not (conditions[0].kind == "relation" or _is_condition(conditions[0])):
        return False
    return symbols_of(conditions[0]) == {element.value} and _equal_regions(conditions[0], other)


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
    if any(_is_condition(node) for node in (gold, answer)):
        if gold.value == answer.value and _unordered(_elements(gold), _elements(answer)):
            return True
        return _equal_regions(gold, answer)
    named = [_named_values(node) for node in (gold, answer)]
    by_name = [values if values is not None and len(dict(values)) == len(values) else None for values in named]
    if by_name[0] is not None and by_name[1] is not None and len(by_name[0]) + len(by_name[1]) > 2:
        return _equal_named(by_name[0], by_name[1])
    if None in named and by_name != [None, None] and not _one_family(by_name[0] or by_name[1] or []):
        return _equal_named_and_bare(by_name, gold, answer)
    names = [_names_in(node) for node in (gold, answer)]
    if all(names) and names[0] != names[1] and len({re.split("_|'", name)[0] for side in names for name in side}) > 1:
        return False
    items = [_unnamed(node) for node in (gold, answer)]
    kinds = {gold.kind, answer.kind}
    if kinds <= {"list", "set"}:
        repeats_count = kinds == {"list"} and all(is_scalar(item) for side in items for item in side)
        sides = items if repeats_count else [_distinct(side) for side in items]
        return _unordered(sides[0], sides[1])
    other = answer if gold.kind in ("list", "set") else gold
    if other.kind == "sequence" and (other.value == ("(", ")") or (other.value == ("[", "]") and len(other.args) != 2)):
        return _ordered(*items)
    return other.kind in ("union", "setminus", "intersection") and _equal_regions(gold, answer)


def _names_in(node: Node) -> set[str]:
    """The names of its elements, and of the elements of its groups (p = 5, q = 2; p = 7, q = 2)."""
    if node.kind == "list":
        return set().union(*map(_names_in, node.args))
    pair = assignment(node)
    return {pair[0]} if pair is not None else set()


def _is_condition(node: Node) -> bool:
    """x > 2 and x < 4: a list of inequalities is a region."""
    return node.kind == "list" and all(
        part.kind == "relation" and set(part.value) <= {"<", ">", "<=", ">=", "!="} for part in node.args
    )


def _alphabetic(names: set[str]) -> bool:
    """x, y, z; a, b, c; m, n: letters that have an order whichever comes first."""
    return all(len(name) == 1 for name in names) and "".join(sorted(names)) in "abcdefghijklmnopqrstuvwxyz"


def _equal_named_and_bare(by_name: list[list[tuple[str, Node]] | None], gold: Node, answer: Node) -> bool:
    """x = 3, y = 2 and (3, 2): by the order of the names where those are letters, else by the order in which they stand."""
    sides = []
    for pairs, node in zip(by_name, (gold, answer), strict=True):
        if pairs is None:
            sides.append(_elements(node))
            continue
        order = sorted(pairs, key=lambda pair: pair[0]) if _alphabetic({name for name, _ in pairs}) else pairs
        sides.append(tuple(value for _, value in order))
    if "chain" in (gold.value, answer.value) and 1 in map(len, sides):  # a = b = 5 and 5
        one, many = sorted(sides, key=len)
        return all(_equal(one[0], value) for value in many)
    return _ordered(sides[0], sides[1])


def _elements(node: Node) -> tuple[Node, ...]:
    return node.args if node.kind in ("list", "set", "sequence") else (node,)


def _unnamed(node: Node) -> tuple[Node, ...]:
    """The elements without their names; named values that repeat their names (x = 1, y = 2 or x = 3, y = 4) become tuples."""
    plain: list[Node] = []
    pairs = _named_values(node)
    width = len(dict(pairs or []))
    if pairs is not None and 1 < width < len(pairs) and len(pairs) % width == 0 and not _one_family(pairs):
        groups = [sorted(pairs[start : start + width], key=lambda pair: pair[0]) for start in range(0, len(pairs), width)]
        return tuple(Node("sequence", tuple(value for _, value in group), ("(", ")")) for group in groups)
    for element in _elements(node):
        if element.kind == "list" and (pairs := _named_values(element)) is not None:
            element = Node("sequence", tuple(value for _, value in pairs), ("(", ")"))
        elif (pair := assignment(element)) is not None:
            element = pair[1]
        plain += element.args if element.kind in ("list", "set") and node.kind == "list" else (element,)
    return tuple(plain)


def _named_values(node: Node) -> list[tuple[str, Node]] | None:
    """The (name, value) of each element if all are named; (x, y) = (1, 2) names both."""
    found: list[tuple[str, Node]] = []
    for element in node.args if node.kind in ("list", "set") else (node,):
        pair = assignment(element)
        if pair is None:
            return None
        names = element.args[0]
        if (
            node.kind == "relation"
            and names.kind == "sequence"
            and pair[1].kind == "sequence"
            and len(names.args) == len(pair[1].args)
        ):
            found += [(name_of(name) or "", value) for name, value in zip(names.args, pair[1].args, strict=True)]
        else:
            found.append(pair)
    return found


def _one_family(pairs: list[tuple[str, Node]]) -> bool:
    """x_1, x_2: one name with subscripts (or one name again and again), whose order means nothing."""
    return len({re.split("_|'", name)[0] for name, _ in pairs}) == 1


def _equal_named(gold: list[tuple[str, Node]], answer: list[tuple[str, Node]]) -> bool:
    others = dict(answer)
    return {name for name, _ in gold} == set(others) and all(_equal(value, others[name]) for name, value in gold)


def _equal_sequences(gold: Node, answer: Node) -> bool:
    """Tuples by place; for two numbers the brackets count, since they may be an interval; a column is a tuple too."""
    sides = []
    for node in (gold, answer):
        if node.kind == "matrix" and 1 in shape(node) and node.value is None:
            node = Node("sequence", tuple(entry for row in node.args for entry in row), ("(", ")"))
        sides.append(node)
    gold, answer = sides
    if gold.kind != answer.kind:
        rows = gold if gold.kind == "sequence" else answer
        if "matrix" in (gold.kind, answer.kind) and all(row.kind == "sequence" for row in rows.args):
            matrix = Node("matrix", tuple(row.args for row in rows.args))
            return _equal(matrix, answer) if rows is gold else _equal(gold, matrix)
        return False
    half_open = {("(", "]"), ("[", ")")} & {gold.value, answer.value}
    if len(gold.args) != len(answer.args) or (gold.value != answer.value and (half_open or len(gold.args) == 2)):
        return False
    return _ordered(gold.args, answer.args)


def _equal_based(gold: Node, answer: Node) -> bool:
    """52_8 is 52_8, and 52 where the question has said the base; never a number in another base."""
    if gold.kind == answer.kind:
        return _in_base(gold) == _in_base(answer)
    return gold.kind == "based" and answer.kind == "number" and answer.places is None and str(answer.value) == gold.value[0]


def _in_base(node: Node) -> tuple[Any, ...]:
    digits, base = node.value
    number = number_of(base) or (int(base) if base.isdigit() else 0)
    try:
        return ("value", int(digits, number)) if 2 <= number <= 36 else ("written", digits, base)
    except ValueError:
        return ("written", digits, base)


def _with_letter_unit(node: Node, other: Node) -> Node:
    """7.5 m where the other side says 7.5 meters: only then is a single letter a unit."""
    if node.kind != "multiply" or other.kind != "quantity" or node.args[1] != Node("symbol", (), unit_of(other.value)):
        return node
    return node if symbols_of(node.args[0]) else Node("quantity", (node.args[0],), other.value)


def _equal_quantity(gold: Node, answer: Node) -> bool:
    """A unit may be left out, but two units must be the same."""
    gold, answer = _with_letter_unit(gold, answer), _with_letter_unit(answer, gold)
    units = [unit_of(node.value) if node.kind == "quantity" else node.kind * (node.kind in SIGNS) for node in (gold, answer)]
    if units[0] and units[1] and units[0] != units[1]:
        return False
    inner = [node.args[0] if node.kind == "quantity" else node for node in (gold, answer)]
    return _equal(inner[0], inner[1])


def _equal_relations(gold: Node, answer: Node) -> bool:
    named = [assignment(node) for node in (gold, answer)]
    if named[0] is not None and named[1] is not None:
        return _equal_assignments(gold, answer, named[0], named[1])
    for pair, node, other in ((named[0], gold, answer), (named[1], answer, gold)):
        if pair is not None and other.kind != "relation":
            if other.kind == "list":
                return _equal_collections(gold, answer)
            return _equal_as(node is gold, pair[1], other)
    membership = [_membership(node) for node in (gold, answer)]
    if membership[0] is not None or membership[1] is not None:
        if None not in membership and name_of(gold.args[0]) != name_of(answer.args[0]):
            return False
        sides = [inner or node for inner, node in zip(membership, (gold, answer), strict=True)]
        if {side.kind for side in sides} == {"set", "sequence"}:
            return False
        return _equal(sides[0], sides[1])
    if gold.kind == answer.kind == "relation":
        if set(gold.value) | set(answer.value) <= {"="}:
            return _equal_equations(gold, answer)
        if gold.value == answer.value and len(gold.args) == len(answer.args) and _ordered(gold.args, answer.args):
            return True
        return _equal_inequalities(gold, answer) or _equal_regions(gold, answer)
    relation, other = (gold, answer) if gold.kind == "relation" else (answer, gold)
    if set(relation.value) & {"<", ">", "<=", ">=", "!="}:
        if other.kind == "builder":
            return _equal_builders(gold, answer)
        return other.kind in ("sequence", "union", "setminus", "intersection", "list", "set") and _equal_regions(gold, answer)
    return False


def _equal_assignments(gold: Node, answer: Node, first: tuple[str, Node], second: tuple[str, Node]) -> bool:
    """x = 5 and x = 5.0, f(x) = 2x and f(t) = 2t; under two names only as one equation (x = 2y and y = x/2)."""
    if _same_name(first[0], second[0]):
        variables = [_argument_of(node.args[0]) for node in (gold, answer)]
        if all(variables) and variables[0] != variables[1]:
            return _equal(renamed(first[1], {variables[0]: "x•"}), renamed(second[1], {variables[1]: "x•"}))
        return _equal(first[1], second[1])
    if {first[0][0], second[0][0]} == {"("}:  # (x, y) = (1, 2) and (y, x) = (2, 1)
        pairs = [_named_values(node) for node in (gold, answer)]
        return pairs[0] is not None and pairs[1] is not None and _equal_named(pairs[0], pairs[1])
    return bool(symbols_of(first[1]) or symbols_of(second[1])) and _equal_equations(gold, answer)


def _argument_of(name: Node) -> str:
    """The x of f(x)."""
    plain = name.kind == "apply" and len(name.args) == 2 and name.args[1].kind == "symbol"
    return str(name.args[1].value) if plain else ""


def _equal_as(gold_is_named: bool, value: Node, other: Node) -> bool:
    return _equal(value, other) if gold_is_named else _equal(other, value)


def _membership(node: Node) -> Node | None:
    """The set of "x ∈ set"."""
    if node.kind == "relation" and node.value == ("in",) and name_of(node.args[0]) is not None:
        return node.args[1]
    return None


def _difference(a: Node, b: Node) -> Node:
    return Node("add", (a, Node("negate", (b,))))


def _equal_equations(gold: Node, answer: Node) -> bool:
    """L = R and a multiple of it are one equation: the quotient of the two differences is one number."""
    if len(gold.args) != 2 or len(answer.args) != 2:
        return _unordered(gold.args, answer.args)
    factor = constant_factor(_difference(*gold.args), _difference(*answer.args))
    return factor is not None


def _equal_inequalities(gold: Node, answer: Node) -> bool:
    """x + y < 3 and 6 - 2y > 2x: one is a positive multiple of the other, or a negative one with the sign turned."""
    if len(gold.args) != 2 or len(answer.args) != 2 or gold.kind != answer.kind:
        return False
    factor = constant_factor(_difference(*gold.args), _difference(*answer.args))
    operator = answer.value[0]
    return factor is not None and gold.value[0] == (operator if factor > 0 else FLIPPED.get(operator))


def _equal_regions(gold: Node, answer: Node) -> bool:
    """Unions, intervals and inequalities: part by part, else as sets of numbers, else (a < x < b and (a, b)) by their bounds."""
    sides = [flat_union(node) for node in (gold, answer)]
    if all(part.kind in ("sequence", "set") for side in sides for part in side) and _unordered(tuple(sides[0]), tuple(sides[1])):
        return True
    same = same_region(gold, answer)
    if same is not None:
        return same
    intervals = [as_interval(node) for node in (gold, answer)]
    return intervals[0] is not None and intervals[1] is not None and _equal_sequences(intervals[0], intervals[1])


def proportional_parts(gold: tuple[Node, ...], answer: tuple[Node, ...]) -> bool:
    """1 : 2 and 2 : 4 are one ratio."""
    first = [Node("multiply", (part, answer[0])) for part in gold]
    second = [Node("multiply", (part, gold[0])) for part in answer]
    return all(equal_expressions(a, b) for a, b in zip(first, second, strict=True)) and answer[0] != ZERO
