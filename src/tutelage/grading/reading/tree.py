"""The tree of an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from tutelage.grading.calculating.work import spend

Contents = tuple[frozenset[str], frozenset[str], frozenset[str], int]
Reply = tuple[bool | None, str, str]
"""(equal, layer, why) as a comparison says them; see `Verdict`."""


class Unreadable(Exception):
    """The text is not an answer that the grammar knows."""


class Kind:
    """What a node is."""

    NUMBER = "number"  # value: a Fraction
    SYMBOL = "symbol"  # value: its name
    ADD = "add"
    MULTIPLY = "multiply"
    DIVIDE = "divide"
    POWER = "power"
    NEGATE = "negate"
    PLUSMINUS = "plusminus"
    PERCENT = "percent"
    DEGREE = "degree"
    FACTORIAL = "factorial"
    CALL = "call"  # value: the name of a function that is known
    APPLY = "apply"  # f(x); args: the symbol f, then the arguments
    BASED = "based"  # 52_8; value: (digits, base)
    RELATION = "relation"  # value: its operators
    LIST = "list"  # value: the word that joins it ("and", "or") or None
    SEQUENCE = "sequence"  # value: its two brackets
    SET = "set"
    MATRIX = "matrix"  # args: tuples of entries; value: "cases" or None
    DETERMINANT = "determinant"  # args: tuples of entries
    UNION = "union"
    INTERSECTION = "intersection"
    SETMINUS = "setminus"
    BUILDER = "builder"  # {x | x > 3}; args: the element, then its conditions
    RESIDUE = "residue"  # args: a value and its modulus
    QUANTITY = "quantity"  # value: its unit
    RATIO = "ratio"
    OPAQUE = "opaque"  # a sum, product, integral, limit or remainder, compared by its parts; value: its name

class Node:
    """A part of an answer, which nothing changes. `places` counts the digits behind a decimal point; None: there is no point."""

    def __init__(self, kind: str, args: tuple[Any, ...] = (), value: Any = None, places: int | None = None) -> None:
        self.kind, self.args, self.value, self.places = kind, args, value, places
        self._contents: Contents | None = None

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Node) and self.kind == other.kind and self.value == other.value
        return same and self.args == other.args  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((self.kind, self.args, self.value))

    def __repr__(self) -> str:
        """The points of a comparison are drawn from this."""
        return f"{self.kind}{self.args!r}{self.value!r}"

    @property
    def contents(self) -> Contents:
        """Of it and all nodes in it: the symbols that need a value, the kinds, the names of functions and symbols, their count."""
        if self._contents is None:
            self._contents = _OF_NUMBER if self.kind == Kind.NUMBER else self._all_contents()
        return self._contents

    def _all_contents(self) -> Contents:
        if self.kind == Kind.SYMBOL:
            known = self.value in CONSTANTS or self.value.startswith(BOUND)
            word = frozenset((self.value,))
            return frozenset() if known else word, _OF_SYMBOL, word, 1
        names: set[str] = set()
        kinds, words = {self.kind}, {self.value} if isinstance(self.value, str) else set()
        size = 1
        for part in _nodes(self.args):
            inner = part.contents
            names |= inner[0]
            kinds |= inner[1]
            words |= inner[2]
            size += inner[3]
        if self.kind == Kind.APPLY:  # the f of f(x) is no unknown
            names = set(symbols_of(self.args[1:]))
        return frozenset(names), frozenset(kinds), frozenset(words), size

    @property
    def names(self) -> frozenset[str]:
        return self.contents[0]

    def is_symbol(self, *names: str) -> bool:
        """It is a symbol, of one of these names if there are any."""
        return self.kind is Kind.SYMBOL and (not names or self.value in names)


CONSTANTS = ("pi", "e", "i", "infty")
SIDES = {"+": "from above", "-": "from below"}
"""The side from which a limit is taken: the call of the point."""
BOUND = "•"
"""What the name of a bound variable begins with: the k of a sum, the x of an integral."""


_OF_SYMBOL = frozenset((Kind.SYMBOL,))
_OF_NUMBER: Contents = (frozenset(), frozenset((Kind.NUMBER,)), frozenset(), 1)


def number(value: int | Fraction, places: int | None = None) -> Node:
    return Node(Kind.NUMBER, (), value if type(value) is Fraction else Fraction(value), places)


def symbol(name: str) -> Node:
    return Node(Kind.SYMBOL, (), name)


def call(name: str, *arguments: Node) -> Node:
    return Node(Kind.CALL, arguments, name)


def negated(node: Node) -> Node:
    return Node(Kind.NEGATE, (node,))


def product(a: Node, b: Node) -> Node:
    return Node(Kind.MULTIPLY, (a, b))


def difference(a: Node, b: Node) -> Node:
    return Node(Kind.ADD, (a, negated(b)))


def tuple_of(parts: tuple[Node, ...]) -> Node:
    """(a, b, …)"""
    return Node(Kind.SEQUENCE, parts, ("(", ")"))


ZERO = number(0)


def _nodes(args: tuple[Any, ...]) -> Iterator[Node]:
    """The nodes among arguments, and in the rows of a matrix."""
    for part in args:
        if isinstance(part, Node):
            yield part
        elif isinstance(part, tuple):
            yield from _nodes(part)


def nodes_of(node: Node) -> Iterator[Node]:
    """The node and all below it."""
    spend(node.contents[3])
    rest = [node]
    while rest:
        node = rest.pop()
        yield node
        rest += _nodes(node.args)


def holds(node: Node, *kinds: str) -> bool:
    """A node of one of these kinds is in it."""
    return not node.contents[1].isdisjoint(kinds)


def symbols_of(part: Node | tuple[Any, ...]) -> frozenset[str]:
    """The names that need a value."""
    return part.names if isinstance(part, Node) else frozenset().union(*(inner.names for inner in _nodes(part)))


def rewritten(part: Any, change: Callable[[Node], Node]) -> Any:
    """The tree with each node changed, from the leaves up; tuples of nodes too."""
    if isinstance(part, tuple):
        return tuple(rewritten(inner, change) for inner in part)
    return change(Node(part.kind, rewritten(part.args, change), part.value, part.places)) if isinstance(part, Node) else part


def plain_text(node: Node) -> str:
    """A node as text, for the names of accented symbols."""
    inside = "".join(plain_text(part) for part in node.args if isinstance(part, Node))
    return f"{'-' if node.kind is Kind.NEGATE else ''}{node.value if node.value is not None else ''}{inside}"
