"""Names in answers: which quantity an answer speaks about (x, f(x), AB), and the values that are given to names."""

from __future__ import annotations

import re

from tutelage.grading.reading.tree import CONSTANTS, ZERO, Kind, Node, rewritten, symbol, symbols_of, tuple_of

Named = list[tuple[str, Node]]
"""(name, value) of each element of an answer."""
VARIABLES = frozenset("xyztsurnmkθ") | {"theta"}
"""Letters that a function is usually taken of; f(a) and P(A) name one value."""


_SEGMENT = re.compile("^bar (?=[A-Z]{2}$)")
"""AB with a bar is the segment AB, and in "AB = 5" its length."""


_ALIASES = {"bar x": "mean", "mu": "mean", "average": "mean"}


def name_of(node: Node) -> str | None:
    """x, f(x), AB, |AB|, \\angle ABC, V_1 : V_2, (x, y), sin A: what only says which quantity is meant; None for anything else."""
    match node.kind:
        case Kind.SYMBOL:
            if node.value in CONSTANTS and node.value != "e":
                return None
            return _ALIASES.get(node.value) or _SEGMENT.sub("", node.value)
        case Kind.APPLY:  # f(x) by its head alone, f(2) and f(x + 1) with what they are taken of
            of_variable = len(node.args) == 2 and node.args[1].is_symbol(*VARIABLES)
            return f"{node.args[0].value}()" if of_variable else f"{node.args[0].value}({node.args[1:]!r})"
        case Kind.UNION | Kind.INTERSECTION | Kind.SETMINUS if all(part.is_symbol() for part in node.args):
            return f" {node.kind} ".join(part.value for part in node.args)
        case Kind.CALL if node.value == "abs" and node.args[0].is_symbol() and re.fullmatch("[A-Z]{2}", node.args[0].value):
            return str(node.args[0].value)
        case Kind.CALL:
            inner = name_of(node.args[0]) if len(node.args) == 1 else None
            return f"{node.value}({inner})" if inner else None
        case Kind.ADD if all(part.is_symbol(*"abcdkmnpq") for part in node.args):  # m + n = 113
            return " + ".join(sorted(part.value for part in node.args))
        case Kind.ADD if all(part.kind is Kind.APPLY and not symbols_of(part.args[1:]) for part in node.args):  # f(1) + f(2)
            return " + ".join(sorted(name_of(part) or "" for part in node.args))
        case Kind.MULTIPLY | Kind.RATIO | Kind.DIVIDE | Kind.SEQUENCE:
            names = [name_of(part) for part in node.args]
            return None if None in names else _joined(node.kind, [name or "" for name in names])
    return None


def _joined(kind: str, names: list[str]) -> str | None:
    """One name of several: AB, V_1 : V_2, AB/CD, (x, y)."""
    match kind:
        case Kind.MULTIPLY:
            full = "".join(names)
            letters = re.sub(r"angle|triangle|bar |vec |[\d_{}']", "", full)
            return full if letters.isupper() or not letters or full.startswith("nabla") else None
        case Kind.DIVIDE if not all(any(map(str.isupper, name)) for name in names):
            return None
        case Kind.SEQUENCE:
            return f"({','.join(names)})" if len(names) > 1 else None
    return ":".join(names)


def assignment(node: Node) -> tuple[str, Node] | None:
    """(name, value) of "name = value"."""
    if node.kind is not Kind.RELATION or node.value != ("=",):
        return None
    name, value = node.args
    if name.kind is Kind.ADD and (value.names or value == ZERO):  # a + b = 0 is an equation
        return None
    if value.kind is Kind.MATRIX and not name.is_symbol() and "".join(symbols_of(name)).isupper():  # A^{-1}, A + B
        return repr(name), value
    return (found, value) if (found := name_of(name)) is not None else None


def membership(node: Node) -> Node | None:
    """The set of "x ∈ set"."""
    if node.kind is Kind.RELATION and node.value == ("in",) and name_of(node.args[0]) is not None:
        return node.args[1]
    return None


def elements_of(node: Node) -> tuple[Node, ...]:
    return node.args if node.kind in (Kind.LIST, Kind.SET, Kind.SEQUENCE) else (node,)


def named_values(node: Node) -> Named | None:
    """The (name, value) of each element if all are named; (x, y) = (1, 2) names both."""
    found: Named = []
    for element in node.args if node.kind in (Kind.LIST, Kind.SET) else (node,):
        pair = assignment(element)
        if pair is None:
            return None
        names, values = element.args
        both_tuples = names.kind is values.kind is Kind.SEQUENCE and len(names.args) == len(values.args)
        if node.kind is Kind.RELATION and both_tuples:
            found += [(name_of(name) or "", value) for name, value in zip(names.args, values.args, strict=True)]
        else:
            found.append(pair)
    return found


def unnamed_values(node: Node) -> tuple[Node, ...]:
    """The elements without their names; named values that repeat their names (x = 1, y = 2 or x = 3, y = 4) become tuples."""
    pairs = named_values(node) or []
    width = len(dict(pairs))
    if 1 < width < len(pairs) and len(pairs) % width == 0 and not one_family(pairs):
        groups = [sorted(pairs[start : start + width], key=lambda pair: pair[0]) for start in range(0, len(pairs), width)]
        return tuple(tuple_of(tuple(value for _, value in group)) for group in groups)
    plain: list[Node] = []
    for element in elements_of(node):
        if element.kind is Kind.LIST and (values := named_values(element)) is not None:
            element = tuple_of(tuple(value for _, value in values))
        elif (pair := assignment(element)) is not None:
            element = pair[1]
        plain += element.args if element.kind in (Kind.LIST, Kind.SET) and node.kind is Kind.LIST else (element,)
    return tuple(plain)


def all_names(node: Node) -> set[str]:
    """The names of its elements, and of the elements of its groups (p = 5, q = 2; p = 7, q = 2)."""
    if node.kind is Kind.LIST:
        return set().union(*map(all_names, node.args))
    pair = assignment(node)
    return {pair[0]} if pair is not None else set()


def without_subscript(name: str) -> str:
    return re.split("_|'", name)[0]


def one_family(pairs: Named) -> bool:
    """x_1, x_2: one name with subscripts (or one name again and again), whose order means nothing."""
    return len({without_subscript(name) for name, _ in pairs}) == 1


def in_order(pairs: Named) -> tuple[Node, ...]:
    """The values by the order of their names where those are letters of a row (x, y, z; a, b, c; m, n), else as they stand."""
    names = {name for name, _ in pairs}
    letters = all(len(name) == 1 for name in names) and "".join(sorted(names)) in "abcdefghijklmnopqrstuvwxyz"
    return tuple(value for _, value in (sorted(pairs, key=lambda pair: pair[0]) if letters else pairs))


def renamed(node: Node, names: dict[str, str]) -> Node:
    """The tree with other names for some symbols."""
    return rewritten(node, lambda part: symbol(names.get(part.value, part.value)) if part.is_symbol() else part)


def neutral(node: Node, both_builders: bool) -> Node:
    """x = kπ, k ∈ ℤ and {2k : k ∈ ℤ} with neutral names: which letter counts through the solutions does not matter."""
    if node.kind is not Kind.BUILDER:
        return node
    counting = [part.args[0].value for part in node.args if _counts(part)]
    element = {node.args[0].value: "x•"} if both_builders and node.args[0].kind is Kind.SYMBOL else {}
    return renamed(node, element | {name: f"n•{index}" for index, name in enumerate(counting)})


def _counts(node: Node) -> bool:
    """k ∈ ℤ"""
    domain = membership(node)
    return domain is not None and node.args[0].is_symbol() and domain.is_symbol() and domain.value.startswith("mathbb")
