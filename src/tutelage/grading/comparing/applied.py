"""Does y(0) apply y, or multiply by it? Both answers of a pair are read by the same rule.

The reader marks each letter before a bracket (the value of the node is "?", or "2?" behind a digit or a closing bracket). The letter is
a factor where the text shows it: it stands alone elsewhere (x(x+1)), or each of its brackets holds a sum (a(b+c)). Otherwise it is a
function, and its value is opaque: P(1) + P(2) is not P(3).
"""

from __future__ import annotations

from typing import Any

from tutelage.grading.reading.tree import ZERO, Kind, Node, holds, nodes_of, product, symbol, tuple_of

_POSTFIXED = (Kind.POWER, Kind.FACTORIAL)
_OF_POINTS = (Kind.SEQUENCE, Kind.RELATION, Kind.LIST, Kind.SET, Kind.MATRIX)


def resolved(gold: Node, answer: Node) -> tuple[Node, Node]:
    """The two trees with each marked letter as a function or a factor; A(1, 2) beside a tuple is the point A = (1, 2)."""
    if not (holds(gold, Kind.APPLY) or holds(answer, Kind.APPLY)):
        return gold, answer
    applied = [[node for node in nodes_of(side) if node.kind is Kind.APPLY] for side in (gold, answer)]
    alone = [_alone(side) for side in (gold, answer)]
    functions = {node.args[0].value for side in applied for node in side if node.value is None}
    factors: list[set[int]] = [set(), set()]
    for index, side in enumerate(applied):
        for node in side:
            if node.value is None or _is_sum(node):
                continue
            if node.args[0].value not in functions and _shown_as_factor(node, alone[index], alone[0] | alone[1]):
                factors[index].add(id(node))
            else:
                functions.add(node.args[0].value)
    for index, side in enumerate(applied):
        factors[index] |= {id(node) for node in side if _is_sum(node) and node.args[0].value not in functions}
    trees = [_rewritten(side, factors[index]) for index, side in enumerate((gold, answer))]
    return _points(trees[0], trees[1]), _points(trees[1], trees[0])


def _alone(side: Node) -> set[str]:
    """The symbols that stand there without a bracket behind them; what "=" defines does not count."""
    heads = [id(node.args[0]) for node in nodes_of(side) if node.kind is Kind.APPLY or (node.kind is Kind.RELATION and "=" in node.value)]
    return {node.value for node in nodes_of(side) if node.kind is Kind.SYMBOL and id(node) not in heads}


def _is_sum(node: Node) -> bool:
    return node.value is not None and len(node.args) == 2 and node.args[1].kind is Kind.ADD


def _shown_as_factor(node: Node, own: set[str], both: set[str]) -> bool:
    name, *arguments = node.args
    if len(arguments) != 1 or arguments[0] == ZERO or arguments[0].kind in _OF_POINTS:
        return False
    return name.value in own or (name.value in both and (node.value == "2?" or arguments[0].kind is Kind.NEGATE))


def _rewritten(part: Any, factors: set[int]) -> Any:
    if isinstance(part, tuple):
        return tuple(_rewritten(inner, factors) for inner in part)
    if not isinstance(part, Node):
        return part
    if part.kind in _POSTFIXED and id(part.args[0]) in factors:  # P(1+r)^2 is P·(1+r)^2
        head, argument = part.args[0].args
        return product(head, Node(part.kind, (_rewritten(argument, factors), *_rewritten(part.args[1:], factors)), part.value))
    args = _rewritten(part.args, factors)
    if part.kind is Kind.APPLY:
        return product(*args) if id(part) in factors else Node(Kind.APPLY, args)
    return Node(part.kind, args, part.value, part.places)


def _points(node: Node, other: Node) -> Node:
    """A(1, 2) as A = (1, 2)."""
    if node.kind in (Kind.LIST, Kind.SET):
        return Node(node.kind, tuple(_points(part, other) for part in node.args), node.value)
    if node.kind is not Kind.APPLY or len(node.args) < 3 or not node.args[0].value[0].isupper() or other.kind not in _OF_POINTS:
        return node
    if any(part.kind is Kind.APPLY and part.args[0] == node.args[0] for part in nodes_of(other)):  # X = N(0, 1)
        return node
    return Node(Kind.RELATION, (symbol(node.args[0].value), tuple_of(node.args[1:])), ("=",))
