"""Numbers near their reference: what `eval.tolerance` lets pass that the grader calls wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from tutelage.grading import Reference, grade_all

_NUMBER = re.compile(
    r"(?P<sign>[+\-−]?)\s*(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)"
    r"(?:[eE](?P<e>[+-]?\d{1,3})(?!\d)|\s*(?:\\times|\\cdot|×|·|\*)\s*10\s*\^\s*(?:\{\s*(?P<braced>[+-]?\d{1,3})\s*\}|(?P<bare>[+-]?\d{1,3})))?"
)
"""A decimal number, maybe with a power of ten: 41.8, 1,538, 4.5e33, 4.5 \\times 10^{33}."""
MOST_CHARACTERS = 200


def near(answers: Sequence[str], references: Sequence[Reference], tolerance: float) -> list[bool]:
    """Whether each answer is its reference but for a number, and that number is near the reference's.

    The reference is a number alone. The answer's first number must be at most `tolerance` times the reference away from it. What
    stands around that number (a unit, a sign of money) is judged by the grader, with the reference's number in its place.

    Args:
        references: of several answers, none is compared.
    """
    asked: dict[int, tuple[str, str]] = {}
    for index, (answer, reference) in enumerate(zip(answers, references, strict=True)):
        replaced = _with_number_of(answer, reference, tolerance) if isinstance(reference, str) else None
        if replaced is not None:
            asked[index] = str(reference), replaced
    verdicts = dict(zip(asked, grade_all(list(asked.values())), strict=True))
    return [index in verdicts and verdicts[index].equal is True for index in range(len(answers))]


def _with_number_of(answer: str, reference: str, tolerance: float) -> str | None:
    """The answer with the reference's number in the place of its own first one; None where the two are not near each other."""
    gold = _NUMBER.fullmatch(reference.strip().strip("$").strip())
    found = _NUMBER.search(answer) if len(answer) <= MOST_CHARACTERS else None
    if gold is None or found is None:
        return None
    exact, given = _value(gold), _value(found)
    if abs(given - exact) > Fraction(tolerance) * abs(exact):
        return None
    return answer[: found.start()] + gold[0] + answer[found.end() :]


def _value(number: re.Match[str]) -> Fraction:
    power = number["e"] or number["braced"] or number["bare"] or "0"
    value = Fraction(number["digits"].replace(",", "")) * Fraction(10) ** int(power)
    return -value if number["sign"] in ("-", "−") else value
