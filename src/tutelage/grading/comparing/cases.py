"""Definitions by cases: case by case in any order, else as functions of their variable."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from tutelage.grading.calculating.numbers import Undefined, Value, as_mpf, close, hash_of
from tutelage.grading.calculating.values import evaluate
from tutelage.grading.comparing.regions import JUST, boundaries, lies_in
from tutelage.grading.comparing.rules import same
from tutelage.grading.reading.tree import Kind, Node, holds

Case = tuple[Node, ...]
"""A value and its condition."""


def equal_cases(gold: Node, answer: Node) -> bool:
    """The cases of both, or a definition by cases and a formula (|x|) that has its values."""
    if gold.kind is answer.kind and _same_cases(gold.args, answer.args):
        return True
    names = (gold.names | answer.names) - {"otherwise"}
    early = any(_otherwise(case) for side in (gold, answer) if side.value == "cases" for case in side.args[:-1])
    if len(names) != 1 or early or any(len(case) != 2 for side in (gold, answer) if side.value == "cases" for case in side.args):
        return False
    variable = next(iter(names))
    try:
        points = _points(gold, answer, variable)
        values = [(_value(gold, at, variable), _value(answer, at, variable)) for at in points]
    except Undefined:
        return False
    return all(close(a, b) if a is not None and b is not None else a is b for a, b in values)


def _same_cases(gold: tuple[Case, ...], answer: tuple[Case, ...]) -> bool:
    """The same cases in any order."""
    left = list(answer)
    for row in gold:
        found = [other for other in left if len(row) == len(other) and all(map(same, row, other))]
        if not found:
            return False
        left.remove(found[0])
    return not left


def _otherwise(row: Case) -> bool:
    return row[-1].is_symbol("otherwise")


def _points(gold: Node, answer: Node, variable: str) -> list[Value]:
    """The bounds of the conditions, points beside them, between them and far out; of n even and n odd, integers."""
    if holds(gold, Kind.RESIDUE) or holds(answer, Kind.RESIDUE):
        return [Fraction(at) for at in range(1, 13)]
    conditions = [case[1] for side in (gold, answer) if side.value == "cases" for case in side.args if not _otherwise(case)]
    bounds = set().union(*(boundaries(condition, variable) for condition in conditions)) or {Fraction(0)}
    if variable in "nkmij" and all(type(bound) is Fraction and bound.denominator == 1 for bound in bounds):
        return [min(bounds) + step for step in range(int(max(bounds) - min(bounds)) + 7)]  # n counts
    found = sorted(bounds, key=as_mpf)
    between = [(as_mpf(a) + as_mpf(b)) / 2 for a, b in pairwise(found)]
    drawn = Fraction(hash_of(repr((gold, answer))) % 9_973 + 1, 3_331)  # nobody can choose an answer that is right just there
    steps = (0, -JUST, JUST, Fraction(-1, 3), Fraction(1, 3), Fraction(-7, 2), Fraction(7, 2), -drawn, drawn)
    return [*between, *(at + step for at in found for step in steps)]


def _value(node: Node, at: Value, variable: str) -> Value | None:
    """The value at a point; None where no case holds."""
    if node.value != "cases":
        return evaluate(node, {variable: at})
    for value, condition in node.args:
        if condition.is_symbol("otherwise") or _holds(condition, at, variable):
            return evaluate(value, {variable: at})
    return None


def _holds(condition: Node, at: Value, variable: str) -> bool:
    if condition.kind is Kind.RELATION and condition.value == ("=",) and condition.args[1].kind is Kind.RESIDUE:
        remainder, modulus = (evaluate(part) for part in condition.args[1].args)
        return condition.args[0].is_symbol(variable) and (at - remainder) % modulus == 0
    return lies_in(condition, at, variable)
