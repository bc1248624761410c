"""The tree of an answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


class Unreadable(Exception):
    """The text is not an answer that the grammar knows."""


class TooLarge(Exception):
    """The text is one, but to read or evaluate it would cost too much."""


@dataclass(frozen=True)
class Node:
    """A part of an answer.

    kinds: number (`value` a Fraction, `places` digits after its decimal point or None), symbol, add, multiply, divide, power,
    negate, plusminus, percent, degree, factorial, call (`value` its name), apply (f(x), perhaps a product), based (digits and
    base), relation (`value` its operators), list, sequence (`value` its two brackets), set, matrix (a tuple of rows),
    determinant, union/intersection/setminus, builder (an element and its conditions), residue (a value and its modulus), quantity
    (an expression and its unit), ratio, opaque (compared by its parts).
    """

    kind: str
    args: tuple[Any, ...] = ()
    value: Any = None
    places: int | None = field(default=None, compare=False)


CONSTANTS = ("pi", "e", "i", "infty")


def symbols_of(node: Any) -> set[str]:
    """The names that need a value."""
    if isinstance(node, Node):
        own = {node.value} if node.kind == "symbol" and node.value not in CONSTANTS else set()
        parts = node.args[1:] if node.kind == "apply" else node.args  # the f of f(x) is no unknown
        return own.union(*map(symbols_of, parts))
    return set().union(*(symbols_of(part) for part in node)) if isinstance(node, tuple) else set()


def kinds_of(node: Any) -> Iterator[tuple[str, Any]]:
    """(kind, value) of the node and of all below it."""
    if isinstance(node, Node):
        yield node.kind, node.value
        for part in node.args:
            yield from kinds_of(part)
    elif isinstance(node, tuple):
        for part in node:
            yield from kinds_of(part)
