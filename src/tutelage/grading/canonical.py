"""One form for what can be said in several: chains cut to what they say, ± written out, matrices calculated, names recognised."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tutelage.grading.expressions import equal_expressions, is_scalar
from tutelage.grading.tree import CONSTANTS, Node, kinds_of, symbols_of
from tutelage.grading.values import Undefined, as_mpf, evaluate

VARIABLES = frozenset("xyztsurnmkθ") | {"theta"}
"""Letters that a function is usually taken of; f(a) and P(A) name one value."""


def simplify(node: Node) -> Node:
    """Chains cut to what they say, brackets around one thing removed, matrices calculated."""
    if node.kind == "sequence" and len(node.args) == 1 and node.value != ("{", "}"):
        return simplify(node.args[0])
    if node.kind == "matrix" and node.value == "cases" and all(len(row) == 1 and row[0].kind == "relation" for row in node.args):
        return Node("list", tuple(simplify(row[0]) for row in node.args), "and")  # a system of equations
    if node.kind == "matrix":
        return Node("matrix", tuple(tuple(simplify(entry) for entry in row) for row in node.args), node.value)
    if node.kind in ("list", "set", "sequence", "union", "intersection", "setminus", "quantity", "builder", "residue"):
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
    """x = 1/3 ≈ 0.333 → x = 1/3; z = 1 + 1 = 2 → z = 2; 9/4 = 2.25 → 9/4; a = b = 1 → a = 1, b = 1; 5 = x → x = 5."""
    members, operators = [simplify(part) for part in node.args], list(node.value)
    while operators and operators[-1] == "~" and (len(operators) > 1 or name_of(members[0]) is None):
        if not _about(members[-2], members[-1]):
            return node
        operators.pop()
        members.pop()
    if not operators:
        return members[0]
    operators = ["=" if operator == "~" else operator for operator in operators]
    if set(operators) == {"="}:
        names = [member for member in members if name_of(member) is not None]
        values = [member for member in members if name_of(member) is None]
        if len(names) == 1 and values and _consistent(names[0], values):
            members, operators = [names[0], values[-1]], ["="]
        elif len(names) > 1 and values and not symbols_of(values[-1]):
            return Node("list", tuple(Node("relation", (name, values[-1]), ("=",)) for name in names), "chain")
        elif not names and not any(symbols_of(member) for member in members):
            same = all(is_scalar(member) and equal_expressions(members[0], member) for member in members[1:])
            return members[0] if same else node
    return Node("relation", tuple(members), tuple(operators))


def _consistent(name: Node, values: list[Node]) -> bool:
    """The members of z = 1 + 1 = 2 are equal; A = bh = 6 says what A is, x = 2y = 6 says more than x = 6."""
    if all(is_scalar(value) and not symbols_of(value) for value in values):
        return all(equal_expressions(values[-1], value) for value in values[:-1])
    if any(symbols_of(value) for value in values[:-1]) and name.kind == "symbol" and name.value.islower():
        return all(is_scalar(value) for value in values) and all(equal_expressions(values[-1], value) for value in values[:-1])
    return True


def _about(a: Node, b: Node) -> bool:
    """Two numbers within a tenth of each other, or two things of which one is no number."""
    try:
        x, y = (as_mpf(evaluate(node)) for node in (a, b))
    except Undefined:
        return True
    return bool(abs(x - y) <= abs(x) / 10)


def _matrix_arithmetic(node: Node) -> Node:
    """Sums, products and multiples of matrices, entry by entry."""
    parts = [simplify(part) for part in node.args]
    if node.kind == "negate":
        return _entries(parts[0], lambda entry: Node("negate", (entry,)))
    if node.kind == "add" and all(part.kind == "matrix" for part in parts) and len({shape(part) for part in parts}) == 1:
        rows = zip(*(part.args for part in parts), strict=True)
        return Node("matrix", tuple(tuple(Node("add", entries) for entries in zip(*row, strict=True)) for row in rows))
    if node.kind == "multiply":
        left, right = parts
        if left.kind == right.kind == "matrix":
            if shape(left)[1] != shape(right)[0]:
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


def shape(matrix: Node) -> tuple[int, int]:
    return len(matrix.args), len(matrix.args[0])


def _entries(matrix: Node, change: Callable[[Node], Node]) -> Node:
    return Node("matrix", tuple(tuple(change(entry) for entry in row) for row in matrix.args))


def _dot(row: tuple[Node, ...], column: tuple[Node, ...]) -> Node:
    return Node("add", tuple(Node("multiply", pair) for pair in zip(row, column, strict=True)))


def expand(node: Node) -> Node:
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
    return [expand(part) if part.kind == "list" else part for part in both]


def _with_sign(node: Any, negative: bool) -> Any:
    if isinstance(node, tuple):
        return tuple(_with_sign(part, negative) for part in node)
    if not isinstance(node, Node):
        return node
    args = tuple(_with_sign(part, negative) for part in node.args)
    if node.kind == "plusminus":
        return Node("negate", args) if negative else args[0]
    return Node(node.kind, args, node.value, node.places)


def name_of(node: Node) -> str | None:
    """x, f(x), AB, |AB|, \\angle ABC, V_1 : V_2, (x, y), sin A: what only says which quantity is meant; None for anything else."""
    match node.kind:
        case "symbol":
            return None if node.value in CONSTANTS and node.value != "e" else str(node.value)
        case "apply":  # f(x) by its head alone, f(2) and f(x + 1) with what they are taken of
            plain_symbol = len(node.args) == 2 and node.args[1].kind == "symbol" and node.args[1].value in VARIABLES
            return f"{node.args[0].value}()" if plain_symbol else f"{node.args[0].value}({node.args[1:]!r})"
        case "multiply":
            parts = [name_of(part) for part in node.args]
            whole = "".join(part or "?" for part in parts)
            geometric = re.sub(r"angle|triangle|bar |vec |[\d_{}']", "", whole)
            return whole if None not in parts and (geometric.isupper() or not geometric) else None
        case "call":
            inner = name_of(node.args[0]) if len(node.args) == 1 else None
            return f"{node.value}({inner})" if inner else None
        case "ratio" | "divide":
            parts = [name_of(part) for part in node.args]
            if None in parts or (node.kind == "divide" and not all(part and any(map(str.isupper, part)) for part in parts)):
                return None
            return ":".join(part or "" for part in parts)
        case "sequence":
            parts = [name_of(part) for part in node.args]
            return f"({','.join(part or '' for part in parts)})" if None not in parts and len(parts) > 1 else None
    return None


def assignment(node: Node) -> tuple[str, Node] | None:
    """(name, value) of "name = value"."""
    if node.kind == "relation" and node.value == ("=",) and (name := name_of(node.args[0])) is not None:
        return name, node.args[1]
    return None


def renamed(node: Any, names: dict[str, str]) -> Any:
    """The tree with other names for some symbols."""
    if isinstance(node, tuple):
        return tuple(renamed(part, names) for part in node)
    if not isinstance(node, Node):
        return node
    if node.kind == "symbol":
        return Node("symbol", (), names.get(node.value, node.value))
    return Node(node.kind, tuple(renamed(part, names) for part in node.args), node.value, node.places)


def parameters(node: Node) -> dict[str, str]:
    """Neutral names for the letters of k ∈ ℤ: which letter counts through the solutions does not matter."""
    found = [
        part.args[0].value
        for part in node.args
        if isinstance(part, Node) and part.kind == "relation" and part.value == ("in",) and part.args[0].kind == "symbol"
        and part.args[1].kind == "symbol" and part.args[1].value.startswith("mathbb")
    ]  # fmt: skip
    return {name: f"n•{index}" for index, name in enumerate(found)}
