"""Quantities: units of one kind, 5 ft 6 in, and letters that are units."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise

from tutelage.grading.reading.terms import COMPOUND
from tutelage.grading.reading.tree import Kind, Node, holds, nodes_of, number, plain_text, product, rewritten, symbol, symbols_of
from tutelage.grading.wording.units import measure


def in_base_units(gold: Node, answer: Node) -> tuple[Node, Node]:
    """Where there are several units, each with its size and its base units as factors: 3 h is 10800 s."""
    if len(measures_of(gold) | measures_of(answer)) < 2:
        return gold, answer
    return rewritten(gold, _in_base_units), rewritten(answer, _in_base_units)


def measures_of(node: Node) -> set[tuple[Fraction, str]]:
    """The size and the base units of each unit in it."""
    quantities = (part for part in nodes_of(node) if part.kind is Kind.QUANTITY) if holds(node, Kind.QUANTITY) else ()
    return {found for part in quantities if (found := measure(part.value))[1]}


def _in_base_units(node: Node) -> Node:
    if node.kind is not Kind.QUANTITY:
        return node
    size, units = measure(node.value)
    for name, _, power in (unit.partition("^") for unit in units.split()):
        node = product(node, Node(Kind.POWER, (symbol(f"unit {name}"), number(int(power or 1)))))
    return product(number(size), node)


def in_one_unit(node: Node) -> Node:
    """5 ft 6 in as 66 in; as it stands where units do not get smaller or measure different things."""
    if node.value != COMPOUND or any(part.args[0].kind is not Kind.NUMBER for part in node.args):
        return node
    sizes, units = zip(*(measure(part.value) for part in node.args), strict=True)
    if len(set(units)) > 1 or any(before <= size for before, size in pairwise(sizes)):
        return node
    total = sum(part.args[0].value * size for part, size in zip(node.args, sizes, strict=True)) / sizes[-1]
    return Node(Kind.QUANTITY, (number(total),), node.args[-1].value)


def with_letter_unit(node: Node, other: Node) -> Node:
    """7.5 m where the other side says 7.5 meters, 9 N·m beside newton meters: only then are letters units; 66 in for 5 ft 6 in."""
    node, other = in_one_unit(node), in_one_unit(other)
    if other.kind is not Kind.QUANTITY or node.kind not in (Kind.MULTIPLY, Kind.DIVIDE):
        return node
    value, letters = _value_and_letters(node)
    shouted = letters.strip() in ("M", "G", "S", "H", "T", "k")  # 5M is not 5 m
    return Node(Kind.QUANTITY, (value,), letters) if letters and not shouted and measure(letters)[1] == measure(other.value)[1] else node


def _value_and_letters(node: Node) -> tuple[Node, str]:
    """(5, "m^2") of 5m^2; no letters where they are no factors."""
    if node.kind not in (Kind.MULTIPLY, Kind.DIVIDE) or not symbols_of(node):
        return node, "" if symbols_of(node) else " "
    value, letters = _value_and_letters(node.args[0])
    factor, sign = node.args[1], " / " if node.kind is Kind.DIVIDE else " "
    if factor.kind is Kind.DIVIDE and node.kind is Kind.MULTIPLY:  # 3 \\frac{m}{s}
        return _value_and_letters(Node(Kind.DIVIDE, (product(node.args[0], factor.args[0]), factor.args[1])))
    base, power = factor.args if factor.kind is Kind.POWER else (factor, None)
    exponent = plain_text(power) if power is not None else ""
    if not letters or not base.is_symbol() or not re.fullmatch(r"(?:-?\d+)?", exponent):
        return node, ""
    unit = _SYMBOLS_OF_UNITS.get(base.value, base.value)
    return value, f"{letters}{sign}{unit}{exponent and '^' + exponent}".replace("μ ", "μ")


_SYMBOLS_OF_UNITS = {"Omega": "ohm", "mu": "μ", "BM": "MB", "BG": "GB", "JM": "MJ"}
