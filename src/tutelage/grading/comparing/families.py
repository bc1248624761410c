"""Families of answers: letters that count through solutions (k, n), constants of integration (C, c, C_1), and what is said about them.

Two formulas are one family where a renaming of these letters (and a step of a counting letter) makes them equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import permutations

from tutelage.grading.calculating.numbers import CONTEXTS, DIGITS, Undefined, as_mpf, close, is_real
from tutelage.grading.calculating.values import evaluate
from tutelage.grading.comparing.expressions import equal_expressions, is_scalar
from tutelage.grading.comparing.named import assignment, membership, named_values
from tutelage.grading.reading.tree import Kind, Node, difference, holds, negated, nodes_of, number, rewritten, symbol, symbols_of

_COUNTERS, _COUNTING = frozenset("knml"), frozenset("knmltjq")
_CONSTANT = re.compile(r"[CcKkABD](?:_\d)?$")
_VARIABLES = frozenset("xytuzsrvw") | {"theta"}
_PARAMETERS = frozenset({"s", "t", "u", "lambda", "mu"})
"""Letters of a line or curve that may have another name."""
_STEPS = [(1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)]


def readings(gold: Node, answer: Node) -> Iterator[tuple[Node, Node]]:
    """The pairs to compare where the answers as they stand are not equal."""
    letters = gold.names | answer.names
    lists = holds(gold, Kind.LIST) or holds(answer, Kind.LIST)
    if not (lists or letters & (_COUNTING | _PARAMETERS) or any(map(_CONSTANT.match, letters))):
        return
    sides = [_without_declarations(node) for node in (gold, answer)]
    (first, domains), (second, others) = sides
    bounds = [{domain for domain in side.values() if domain.startswith("from")} for side in (domains, others)]
    if (not domains) is not (not others) and is_scalar(first) and first.names == second.names and not _implied(first):
        yield first, second  # n(n + 1), where n is a positive integer
    if bounds[0] != bounds[1] or (domains and others and set(domains.values()) != set(others.values())):
        return
    relations = (part for side in (first, second) for part in nodes_of(side) if part.kind is Kind.RELATION)
    bounded = any(set(part.value) & {"<", ">", "<=", ">="} for part in relations)
    real = {"mathbb R"} >= {*domains.values(), *others.values()}
    if (domains or others) and (real or not bounded) and (first.names <= second.names or second.names <= first.names):
        yield first, second
    progressions = [_progression(body) for body in (first, second)]
    named = any(part is not None and part.kind is Kind.RELATION for part in (*progressions, first, second))
    bare = any(part is not None and part.kind is Kind.RESIDUE for part in progressions)
    of_integers = {*domains.values(), *others.values()} <= {"mathbb Z"}
    if named and of_integers and any(progressions) and not (bare and symbols_of(first) & symbols_of(second)):
        yield progressions[0] or first, progressions[1] or second
    yield from _renamed_constants(first, second)
    yield from _up_to_a_constant(first, second)
    parameters = [_parameter(body) for body in (first, second)]
    if parameters[0] and parameters[1]:
        yield first, _replaced(second, {parameters[1]: symbol(parameters[0])})
    names = [set(declared) & symbols_of(body) or _implied(body) for body, declared in sides]
    if len(names[0]) == len(names[1]) == 1:
        counter = symbol("n•")
        first = _replaced(first, dict.fromkeys(names[0], counter))
        one_way = bounds[0] or "mathbb N" in domains.values()  # k ≥ 0 has no step
        runs = domains or others or (_counts(gold, names[0]) and _counts(answer, names[1]))
        for sign, step in _STEPS if runs and not one_way else _STEPS[:1]:
            stepped = Node(Kind.ADD, (counter if sign > 0 else negated(counter), number(step)))
            yield first, _replaced(second, dict.fromkeys(names[1], counter if (sign, step) == (1, 0) else stepped))
    if len(domains) == len(others) > 1:
        yield first, _replaced(second, dict(zip(others, map(symbol, domains), strict=True)))


def _progression(node: Node) -> Node | None:
    """n = 6k + 5 as n ≡ 5 (mod 6), 6k + 5 as 5 (mod 6)."""
    pair = assignment(node) or ("", node)
    letters = symbols_of(pair[1])
    counts = len(letters) == 1 and letters <= _COUNTING - {pair[0]}
    if len(pair[0]) > 1 or pair[0] == "y" or not is_scalar(pair[1]) or not counts:
        return None
    try:
        start, *rest = (evaluate(pair[1], {name: Fraction(at) for name in letters}) for at in (0, 1, 2, 5))
    except Undefined:
        return None
    step = rest[0] - start
    whole = all(type(value) is Fraction and value.denominator == 1 for value in (start, step))
    if not whole or abs(step) < 2 or rest[1] != start + 2 * step or rest[2] != start + 5 * step:
        return None
    residue = Node(Kind.RESIDUE, (number(start % abs(step)), number(abs(step))))
    return Node(Kind.RELATION, (symbol(pair[0]), residue), ("=",)) if pair[0] else residue


def _without_declarations(node: Node) -> tuple[Node, dict[str, str]]:
    """An answer without its "k ∈ ℤ", and the domain of each name that these declare."""
    if node.kind is Kind.BUILDER and node.args[0].is_symbol() and len(node.args) > 2:  # {x | x = kπ, k ∈ ℤ}
        node = Node(Kind.LIST, node.args[1:])
    if node.kind is not Kind.LIST:
        return node, {}
    rest, domains = [], {}
    for part in node.args:
        domain = _domain(part)
        spoken_of = symbols_of(tuple(other for other in node.args if other is not part))
        if domain and part.args[0].is_symbol(*spoken_of) and not (node.value == "or" and domain.startswith("from")):
            domains[part.args[0].value] = domain
        else:
            rest.append(part)
    if not rest or not domains:
        return node, {}
    return rest[0] if len(rest) == 1 else Node(Kind.LIST, tuple(rest), node.value), domains


def _parameter(node: Node) -> str:
    """The t of (2t, 3t) and of x = 2 + 3t, y = t: the only letter of all values of a vector."""
    if node.kind is Kind.MATRIX and node.value is None:
        values = tuple(entry for row in node.args for entry in row)
    elif node.kind is Kind.LIST:
        pairs = named_values(node) or []
        values = tuple(value for name, value in pairs if name not in _PARAMETERS) if len(dict(pairs)) == len(node.args) else ()
    else:
        values = node.args if node.kind is Kind.SEQUENCE and node.value == ("(", ")") else ()
    shared = _PARAMETERS.intersection(*(value.names for value in values)) if len(values) > 1 else ()
    return next(iter(shared)) if len(shared) == 1 else ""


def _domain(part: Node) -> str:
    """The mathbb Z of k ∈ ℤ, and what k ≥ 0 says of an integer; "" for any other condition."""
    domain = membership(part)
    if domain is not None:
        return domain.value if part.args[0].is_symbol() and domain.is_symbol() and domain.value.startswith("mathbb") else ""
    if part.kind is not Kind.RELATION or part.value not in ((">=",), (">",)) or not part.args[0].is_symbol(*_COUNTING):
        return ""
    least = part.args[1]
    whole = least.kind is Kind.NUMBER and least.value.denominator == 1
    return f"from {least.value + (part.value == ('>',))}" if whole else ""


def _implied(node: Node) -> set[str]:
    """The k of π/4 + 2kπ."""
    return set(node.names & _COUNTERS) if holds(node, Kind.DEGREE) or node.contents[2] & {"pi", "degree"} else set()


def _counts(node: Node, names: set[str]) -> bool:
    """A part of π or of full degrees a step, from a start that is no such step: π/4 + 2kπ; not πn², (n - 2)·180°."""
    bodies = node.args if node.kind in (Kind.LIST, Kind.SET) else (node,)
    for body in (part.args[-1] if part.kind is Kind.RELATION else part for part in bodies):
        if not symbols_of(body) & names:
            continue
        try:
            start, *rest = (as_mpf(evaluate(body, {name: Fraction(step) for name in names})) for step in (0, 1, 2, 5))
        except Undefined:
            return bool(symbols_of(body) - names)
        step = rest[0] - start
        if not (is_real(start) and close(rest[1], start + 2 * step) and close(rest[2], start + 5 * step)) or abs(step) < 0.01:
            return False
        turns = 60 * step / CONTEXTS[DIGITS].pi
        if abs(turns - round(turns)) > 1e-20 and (abs(step) < 30 or body.kind is not Kind.ADD):
            return False
        if node.kind not in (Kind.RELATION, Kind.LIST, Kind.SET) and abs(start / step - round(start / step)) < 1e-20:
            return False
    return True


def _replaced(node: Node, values: dict[str, Node]) -> Node:
    return rewritten(node, lambda part: values.get(part.value, part) if part.is_symbol() else part)


def _renamed_constants(gold: Node, answer: Node) -> Iterator[tuple[Node, Node]]:
    """x² + C and x² + c; C_1e^x + C_2e^{-x} and Ae^x + Be^{-x}."""
    names = [_free_letters(node) for node in (gold, answer)]
    constants = [sorted(name for name in side if _CONSTANT.match(name)) for side in names]
    known = any(name[0] == "C" or name.startswith("c_") for name in constants[0] + constants[1])
    if not known or len(constants[0]) != len(constants[1]) or len(constants[0]) > 3:
        return
    rest = [names[index] - {*constants[index]} for index in (0, 1)]
    if constants[0] == constants[1] and not all("_" in name for name in constants[0]):  # \\frac{C}{A} is not \\frac{A}{C}
        return
    if rest[0] != rest[1] or not rest[0] or not rest[0] <= _VARIABLES or (len(rest[0]) > 1 and constants[0] == constants[1]):
        return
    for order in permutations(constants[1]):
        if order != tuple(constants[0]):
            yield gold, _replaced(answer, {name: symbol(constant) for name, constant in zip(order, constants[0], strict=True)})


def _free_letters(node: Node) -> frozenset[str]:
    """The letters of a value, without the name in front; of x^2 + y^2 = C all."""
    _, value = assignment(node) or ("", node)
    return value.names if len(value.names) < 2 or not value.names <= _VARIABLES else node.names


def _up_to_a_constant(gold: Node, answer: Node) -> Iterator[tuple[Node, Node]]:
    """½ sin² x + C and -½ cos² x + C: the difference of two antiderivatives does not change."""
    names = gold.names & answer.names & {"C"}
    variables = gold.names - names
    if len(names) != 1 or gold.names != answer.names or len(variables) != 1 or not variables <= _VARIABLES or not is_scalar(gold):
        return

    def stepped(node: Node, step: Fraction, changed: frozenset[str]) -> Node:
        return _replaced(node, {name: Node(Kind.ADD, (symbol(name), number(step))) for name in changed})

    added = (equal_expressions(difference(stepped(node, Fraction(1), names), node), number(1)) for node in (gold, answer))
    if all(added):
        apart = difference(gold, answer)
        yield apart, stepped(apart, Fraction(3, 7), gold.names)
