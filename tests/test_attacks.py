"""What an adversary with the grader's code in hand tried: wrong answers to be accepted, and right ones to be refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tutelage.grading import grade_all

ATTACKS = Path(__file__).parent / "data" / "attacks"
STILL_ACCEPTED = {
    (r"no real solution", r"no integer solution"),
    (r"no real roots", r"no integer roots"),
    (r"no positive solutions", r"no real solutions"),
    (r"the equation has no real roots", r"the equation has no positive roots"),
    (r"f(x) = cx \text{ for all integers x}", r"f(x) = cx \text{ for all positive x}"),
    (r"\frac{P}{AB^2}+A+B", r"\frac{P}{(AB)^2}+A+B"),
    (r"AB^{-1}+A+B", r"(AB)^{-1}+A+B"),
    (r"AB^T + A + B", r"(AB)^T+A+B"),
    (r"(2, 3)", r"the closed interval (2,3)"),
    (r"(2,3]", r"the closed interval (2,3]"),
    (r"There are two boys", r"There are two girls"),
    (r"Tom has three cats", r"Tom has three dogs"),
    (r"x=3 \iff y=4", r"x = 4 \iff y = 4"),
    (r"a = 0 \iff b = 0", r"a = 1 \iff b = 0"),
    ("T(n-1)+T(n-2)", "T(2n-3)"),
    ("2T(n-1)+1", "T(2n-2)+1"),
    ("y(t-2)", "y(t) - 2y"),
    (r"\cos a\cos b \mp \sin a\sin b", r"\cos a\cos b \pm \sin a \sin b"),
    (r"\sum_{k=1}^{\infty}\frac{1}{k^2}", r"\frac{\pi^2}{6}+10^{-15}"),
    (r"\int_0^\infty e^{-x^2} dx", r"\frac{\sqrt\pi}{2}+10^{-16}"),
    ("(m,n)=(1,2),(3,4)", "{(n,m)=(1,2),(3,4)}"),
    ("(m,n)=(1,2),(3,4)", r"{\displaystyle (n,m)=(1,2),(3,4)}"),
}
"""Known faults. None may be added; one that is mended goes."""


def accepted(name: str) -> dict[tuple[str, str], bool]:
    """The pairs of a table, and whether the answer is taken."""
    pairs = [(row["gold"], row["pred"]) for row in map(json.loads, (ATTACKS / name).read_text(encoding="utf-8").splitlines())]
    return {pair: bool(verdict.equal) for pair, verdict in zip(pairs, grade_all(pairs), strict=True)}


@pytest.mark.slow
def test_no_wrong_answer_is_accepted_but_the_known_ones():
    assert {pair for pair, taken in accepted("wrong.jsonl").items() if taken} == STILL_ACCEPTED


@pytest.mark.slow
def test_few_right_answers_are_refused():
    refused = [pair for pair, taken in accepted("right.jsonl").items() if not taken]
    assert len(refused) <= 35, refused  # of 878
