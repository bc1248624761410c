"""The layers that read mathematics: our own reader and comparison, then Math-Verify for what the reader does not know.

This runs in a worker process under limits (`worker`); nothing here may be called on an answer in the owner's process.
"""

from __future__ import annotations

import re
from fractions import Fraction

from tutelage.grading import compare, foreign, values, work
from tutelage.grading.expressions import is_scalar
from tutelage.grading.reader import read
from tutelage.grading.tree import Node, Reply, Unreadable, negated, number
from tutelage.grading.work import TooLarge

_THOUSANDS_ONLY = re.compile(r"[-+$\\\s]*\d{1,3}(?:,\d{3})+(?![\d,])(?!\s*,)|.*,0\d")
"""One grouped number, or a group that no list would hold (10,000; 1,050): its commas do not separate."""


def decide(gold: str, answer: str) -> Reply:
    """The verdict on two normalised answers."""
    return by_reading(gold, answer) or foreign.ask(gold, answer)


def by_reading(gold: str, answer: str) -> Reply | None:
    """The verdict of our own reading; None if Math-Verify is to be asked."""
    try:
        with work.limited(work.OWN_UNITS):
            verdict = _read_and_compare(gold, answer)
    except (TooLarge, RecursionError) as error:
        return None, "limit", str(error)[:200]
    return verdict or foreign.refusal(gold, answer)


def _read_and_compare(gold: str, answer: str) -> Reply | None:
    """The verdict; None if one side cannot be read, or holds what is only compared by its parts.

    A comma between three digits is first read as a thousands separator, then (unless that made two single numbers) as a comma.
    """
    layer, known = "structure", values.stand_ins
    for thousands in (True, False):
        try:
            nodes = read(gold, thousands, trusted=True), read(answer, thousands)
        except Unreadable:
            if thousands and "," in gold + answer:
                continue
            return None
        layer = "algebra" if all(is_scalar(node) for node in nodes) else "structure"
        if compare.equal(*nodes):
            return True, layer, ""
        if layer == "algebra" or "," not in gold + answer or any(_THOUSANDS_ONLY.match(text) for text in (gold, answer)):
            break
    if values.stand_ins > known or (layer == "structure" and any(compare.has_opaque(node) for node in nodes)):
        return None
    if layer == "structure" and _decimal_comma(gold, answer, nodes):
        return True, "exact", ""
    return False, layer, "not equal"


def _decimal_comma(gold: str, answer: str, nodes: tuple[Node, Node]) -> bool:
    """1,5 = 1.5, where the comma cannot separate thousands and the other side is a single number."""
    for text, other in ((gold, nodes[1]), (answer, nodes[0])):
        if re.fullmatch(r"-?\d+,\d+", text) and is_scalar(other):
            positive = number(abs(Fraction(text.replace(",", "."))))
            return compare.equal(positive, negated(other) if text.startswith("-") else other)
    return False
