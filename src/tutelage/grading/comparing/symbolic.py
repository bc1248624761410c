"""The layers that read mathematics: two texts to two trees, and the comparison of these.

This runs in a worker process under limits (`worker`); nothing here may be called on an answer in the owner's process.
"""

from __future__ import annotations

import re
from fractions import Fraction

from tutelage.grading.calculating import values, work
from tutelage.grading.calculating.work import TooLarge
from tutelage.grading.comparing import compare
from tutelage.grading.comparing.expressions import is_scalar
from tutelage.grading.reading.reader import read
from tutelage.grading.reading.tree import Node, Reply, Unreadable, negated, number

_THOUSANDS_ONLY = re.compile(r"[-+$\\\s]*\d{1,3}(?:,\d{3})+(?![\d,])(?!\s*,)|.*,0\d")
"""One grouped number, or a group that no list would hold (10,000; 1,050): its commas do not separate."""


def decide(gold: str, answer: str) -> Reply:
    """The verdict on two normalised answers."""
    try:
        with work.limited():
            return _read_and_compare(gold, answer)
    except (TooLarge, RecursionError) as error:
        return None, "limit", str(error)[:200]


def _read_and_compare(gold: str, answer: str) -> Reply:
    """The verdict.

    A comma between three digits is first read as a thousands separator, then (unless that made two single numbers) as a comma.
    """
    layer = "structure"
    values.calculated.clear()
    for thousands in (True, False):
        try:
            nodes = read(gold, thousands, trusted=True), read(answer, thousands)
        except Unreadable:
            if thousands and "," in gold + answer:
                continue
            return False, "unreadable", f"not read in full: {gold[:80]} or {answer[:80]}"
        layer = "algebra" if all(is_scalar(node) for node in nodes) else "structure"
        if compare.equal(*nodes):
            return True, layer, ""
        if layer == "algebra" or "," not in gold + answer or any(_THOUSANDS_ONLY.match(text) for text in (gold, answer)):
            break
    if None in values.calculated.values():
        return None, "limit", "no value was found for a sum, an integral or a limit"
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
