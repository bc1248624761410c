"""Are two trees the same answer? Structure first: kind, brackets, arity, then the elements."""

from __future__ import annotations

import re
from fractions import Fraction

from tutelage.grading.calculating.numbers import Undefined
from tutelage.grading.calculating.values import calculated, evaluate
from tutelage.grading.calculating.work import spend
from tutelage.grading.comparing import families, relations  # noqa: F401 (its rules)
from tutelage.grading.comparing.applied import resolved
from tutelage.grading.comparing.canonical import expand, shape, simplify
from tutelage.grading.comparing.cases import equal_cases
from tutelage.grading.comparing.expressions import equal_expressions, is_scalar
from tutelage.grading.comparing.named import neutral
from tutelage.grading.comparing.quantities import in_one_unit, measures_of, with_letter_unit
from tutelage.grading.comparing.rules import only_element, ordered, rule, same
from tutelage.grading.reading.tree import (
    ZERO,
    Kind,
    Node,
    difference,
    holds,
    nodes_of,
    number,
    product,
    rewritten,
    symbol,
    tuple_of,
)
from tutelage.grading.wording.vocabulary import number_of

_SIGNS = (Kind.PERCENT, Kind.DEGREE)
_RADIAN = Node(Kind.DIVIDE, (symbol("pi"), number(180)))


def equal(gold: Node, answer: Node) -> bool:
    """Whether a careful human would call the two the same answer.

    Raises:
        TooLarge: a limit of evaluation was met.
    """
    gold, answer = _with_products(_beside(gold, answer), _beside(answer, gold))
    gold, answer = (expand(simplify(node)) for node in resolved(gold, answer))
    gold, answer = (_said_value(node, other) for node, other in ((gold, answer), (answer, gold)))
    spend(gold.contents[3] + answer.contents[3])  # a product of many matrices may be huge when it is written out
    both_builders = gold.kind is answer.kind is Kind.BUILDER
    gold, answer = (neutral(node, both_builders) for node in (gold, answer))
    gold, answer = _as_mixed(gold, answer), _as_mixed(answer, gold)
    if same(only_element(gold, answer), only_element(answer, gold)):
        return True
    return any(same(*reading) for reading in families.readings(gold, answer))


def _said_value(node: Node, other: Node) -> Node:
    """What a limit, a sum or an integral that has no value here is said to be, beside an answer without one."""
    if node.kind is not Kind.RELATION or node.value != ("=",) or other.kind is Kind.RELATION or holds(other, Kind.OPAQUE):
        return node
    operator, value = node.args
    if operator.kind is not Kind.OPAQUE or operator.args[0] is None:
        return node
    try:
        evaluate(operator)
        unknown = (operator.value == "int" and operator.args[1] is None) or None in calculated.values()
    except Undefined:
        unknown = True
    return value if unknown else node


def _with_products(gold: Node, answer: Node) -> tuple[Node, Node]:
    """PJ as P · J, where P and J stand alone in one of both: then it is no segment. Of AB^2 nobody knows what is squared."""
    letters = gold.names | answer.names
    products = {name for name in letters if len(name) == 2 and name.isupper() and letters.issuperset(name)}
    if not products:
        return gold, answer
    powers = (part for side in (gold, answer) for part in nodes_of(side) if part.kind is Kind.POWER)
    products -= {power.args[0].value for power in powers if power.args[0].is_symbol()}

    def written(part: Node) -> Node:
        return product(*map(symbol, part.value)) if part.is_symbol() and part.value in products else part

    return rewritten(gold, written), rewritten(answer, written)


def _beside(node: Node, other: Node) -> Node:
    """The letters I and i, j, k as what they are beside a matrix or a vector."""
    return _as_vector(_as_identity(node, other), other)


def _as_identity(node: Node, other: Node) -> Node:
    """I_3, and I beside a matrix, as the matrix that it is."""
    if not holds(other, Kind.MATRIX):
        return node
    size = len(other.args) if other.kind is Kind.MATRIX else 0

    def written(part: Node) -> Node:
        named = re.fullmatch(r"I(?:_(\d))?", part.value) if part.is_symbol() else None
        rows = range(int(named[1] or size)) if named is not None else ()
        return Node(Kind.MATRIX, tuple(tuple(number(int(row == column)) for column in rows) for row in rows)) if rows else part

    return rewritten(node, written)


def _as_vector(node: Node, other: Node) -> Node:
    """i - 2j + 3k beside a vector of three numbers."""
    units = {"i": "hat i", "j": "hat j", "k": "hat k"}
    if other.kind not in (Kind.SEQUENCE, Kind.MATRIX) or not is_scalar(node) or not {"j", "k"} >= node.names or not node.names:
        return node
    return rewritten(node, lambda part: symbol(units[part.value]) if part.is_symbol(*units) else part)


def _as_mixed(node: Node, other: Node) -> Node:
    """3 and 1/2, where the other side is one number."""
    if node.kind is not Kind.LIST or node.value != "and" or len(node.args) != 2 or not is_scalar(other):
        return node
    full, part = node.args
    proper = part.kind is Kind.DIVIDE and all(inner.kind is Kind.NUMBER for inner in part.args) and part.args[0].value < part.args[1].value
    return Node(Kind.ADD, node.args) if proper and full.kind is Kind.NUMBER and full.places is None else node


# --- numbers with something added


@rule(Kind.RATIO)
def _equal_ratios(gold: Node, answer: Node) -> bool:
    """1 : 2 and 2 : 4 are one ratio."""
    if len(gold.args) != len(answer.args):
        return False
    crossed = [(product(a, answer.args[0]), product(b, gold.args[0])) for a, b in zip(gold.args, answer.args, strict=True)]
    return all(equal_expressions(a, b) for a, b in crossed) and not any(equal_expressions(a, ZERO) for a in (gold.args[0], answer.args[0]))


@rule(Kind.QUANTITY)
def _equal_quantities(gold: Node, answer: Node) -> bool:
    """A unit may be left out; two units must measure the same, and what they measure is compared exactly."""
    gold, answer = with_letter_unit(gold, answer), with_letter_unit(answer, gold)
    first, second = _measures(gold), _measures(answer)
    if {gold.value, answer.value} in ({"£", "pounds"}, {"£", "pound"}):  # money here, and a weight beside lb
        return same(gold.args[0], answer.args[0])
    if first == {(Fraction(1), Kind.PERCENT)} != second or second == {(Fraction(1), Kind.PERCENT)} != first:  # 20 % and an increase of 20 %
        gold, answer = (node.args[0] if node.kind is Kind.QUANTITY else node for node in (gold, answer))
        return gold.kind is answer.kind and same(gold, answer)
    if first and second and first != second:
        units = {unit for _, unit in first | second}
        if units == {Kind.DEGREE, "rad"}:
            gold, answer = (product(node.args[0], _RADIAN if node.kind is Kind.DEGREE else number(1)) for node in (gold, answer))
            units = {"rad"}
        return len(units) == 1 and equal_expressions(gold, answer)
    inner = [node.args[0] if node.kind is Kind.QUANTITY else node for node in (gold, answer)]
    return same(inner[0], inner[1])


def _measures(node: Node) -> set[tuple[Fraction, str]]:
    return {(Fraction(1), node.kind)} if node.kind in _SIGNS else measures_of(node)


@rule(Kind.BASED)
def _equal_based(gold: Node, answer: Node) -> bool:
    """52_8 is 52_8, and 52 where the question has said the base; never a number in another base."""
    if gold.kind is answer.kind:
        return _in_base(gold) == _in_base(answer)
    if "10" in {node.value[1] for node in (gold, answer) if node.kind is Kind.BASED}:  # 73_{10} is 73
        plain = [number(int(node.value[0])) if node.kind is Kind.BASED and node.value[0].isdigit() else node for node in (gold, answer)]
        return Kind.NUMBER in (gold.kind, answer.kind) and plain[0] == plain[1]
    return gold.kind is Kind.BASED and answer.kind is Kind.NUMBER and answer.places is None and str(answer.value) == gold.value[0]


def _in_base(node: Node) -> int | tuple[str, str]:
    """The value, or what is written if that has none."""
    digits, base = node.value
    number = number_of(base) or (int(base) if base.isdigit() else 0)
    try:
        return int(digits, number) if 2 <= number <= 36 else (digits, base)
    except ValueError:
        return digits, base


@rule(Kind.RESIDUE)
def _equal_residues(gold: Node, answer: Node) -> bool:
    """2 (mod 5) is 7 (mod 5), and nothing in another modulus."""
    if gold.kind is not answer.kind or not same(gold.args[1], answer.args[1]):
        return False
    remainder = Node(Kind.OPAQUE, (difference(gold.args[0], answer.args[0]), gold.args[1]), "mod")
    return equal_expressions(remainder, ZERO) or same(gold.args[0], answer.args[0])


# --- tuples and matrices


@rule(Kind.SEQUENCE)
def _equal_sequences(gold: Node, answer: Node) -> bool:
    """Tuples by position; for two numbers the brackets count, since they may be an interval; a column is a tuple too."""
    gold, answer = (in_one_unit(_column_as_tuple(node)) for node in (gold, answer))
    if Kind.QUANTITY in (gold.kind, answer.kind):
        gold, answer = with_letter_unit(gold, answer), with_letter_unit(answer, gold)
        return gold.kind is answer.kind and same(gold, answer)  # 150 does not say whether it is of minutes
    if gold.kind is answer.kind:
        half_open = {("(", "]"), ("[", ")")} & {gold.value, answer.value}
        if gold.value != answer.value and (half_open or len(gold.args) == 2):
            return False
        return ordered(gold.args, answer.args)
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


@rule(Kind.MATRIX)
def _equal_matrices(gold: Node, answer: Node) -> bool:
    """Entry by entry."""
    if "cases" in (gold.value, answer.value):
        return equal_cases(gold, answer)
    if gold.kind is not answer.kind or shape(gold) != shape(answer):
        return False
    return all(map(ordered, gold.args, answer.args))
