"""What compares two nodes, by their kinds: each rule is a function of a file that this one does not know (`compare`, `relations`)."""

from __future__ import annotations

from collections.abc import Callable

from tutelage.grading.comparing.expressions import equal_expressions
from tutelage.grading.reading.tree import Kind, Node

Rule = Callable[[Node, Node], bool]
MAX_ELEMENTS = 200
UNORDERED = (Kind.LIST, Kind.SET)
SET_OPERATIONS = (Kind.UNION, Kind.INTERSECTION, Kind.SETMINUS)
_ORDER = (
    Kind.QUANTITY, Kind.RELATION, Kind.BUILDER, *UNORDERED, *SET_OPERATIONS, Kind.SEQUENCE, Kind.MATRIX, Kind.BASED, Kind.RESIDUE,
)  # fmt: skip
"""The first of these kinds that one of two nodes has says which rule compares them."""
_RULES: dict[str, Rule] = {}


def rule(*kinds: str) -> Callable[[Rule], Rule]:
    """Make a function the rule for these kinds."""

    def keep(compare: Rule) -> Rule:
        _RULES.update(dict.fromkeys(kinds, compare))
        return compare

    return keep


def same(gold: Node, answer: Node) -> bool:
    if gold == answer and gold.places == answer.places:
        return True
    kinds = {gold.kind, answer.kind}
    if kinds == {Kind.SEQUENCE, Kind.SYMBOL}:
        return _RULES[Kind.UNION](gold, answer)
    if kinds == {Kind.RATIO}:
        return _RULES[Kind.RATIO](gold, answer)
    for kind in _ORDER:
        if kind in kinds:
            return _RULES[kind](gold, answer)
    return equal_expressions(gold, answer)


def ordered(gold: tuple[Node, ...], answer: tuple[Node, ...]) -> bool:
    return len(gold) == len(answer) and all(map(same, gold, answer))


def unordered(gold: tuple[Node, ...], answer: tuple[Node, ...]) -> bool:
    """The same elements in any order, each used once."""
    if max(len(gold), len(answer)) > MAX_ELEMENTS:
        return False
    left = list(answer)
    for element in gold:
        found = next((index for index, other in enumerate(left) if same(element, other)), None)
        if found is None:
            return False
        del left[found]
    return not left


def only_element(node: Node, other: Node) -> Node:
    """The 5 of {5}, where the other side is no collection."""
    if node.kind not in UNORDERED or len(node.args) != 1 or other.kind in (*UNORDERED, Kind.RELATION) or node.args[0].is_symbol("emptyset"):
        return node
    return node.args[0] if other.kind is not Kind.SEQUENCE or node.args[0].kind is Kind.SEQUENCE else node
