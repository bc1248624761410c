"""What an adversary with the grader's code in hand tried: wrong answers to be accepted, and right ones to be refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tutelage.grading import grade_all

ATTACKS = Path(__file__).parent / "data" / "attacks"
STILL_ACCEPTED = {
    ("T(n-1)+T(n-2)", "T(2n-3)"),
    ("2T(n-1)+1", "T(2n-2)+1"),
    ("y(t-2)", "y(t) - 2y"),
    ("\\cos a\\cos b \\mp \\sin a\\sin b", "\\cos a\\cos b \\pm \\sin a \\sin b"),
    ("\\sum_{k=1}^{\\infty}\\frac{1}{k^2}", "\\frac{\\pi^2}{6}+10^{-15}"),
    ("\\int_0^\\infty e^{-x^2} dx", "\\frac{\\sqrt\\pi}{2}+10^{-16}"),
    ("(m,n)=(1,2),(3,4)", "{(n,m)=(1,2),(3,4)}"),
    ("(m,n)=(1,2),(3,4)", "{\\displaystyle (n,m)=(1,2),(3,4)}"),
    ("no real solution", "no integer solution"),
    ("no real roots", "no integer roots"),
    ("no positive solutions", "no real solutions"),
    ("the equation has no real roots", "the equation has no positive roots"),
    ("f(x) = cx \\text{ for all integers x}", "f(x) = cx \\text{ for all positive x}"),
    ("\\frac{P}{AB^2}+A+B", "\\frac{P}{(AB)^2}+A+B"),
    ("AB^{-1}+A+B", "(AB)^{-1}+A+B"),
    ("AB^T + A + B", "(AB)^T+A+B"),
    ("(2, 3)", "the closed interval (2,3)"),
    ("(2,3]", "the closed interval (2,3]"),
    ("There are two boys", "There are two girls"),
    ("Tom has three cats", "Tom has three dogs"),
    ("x=3 \\iff y=4", "x = 4 \\iff y = 4"),
    ("a = 0 \\iff b = 0", "a = 1 \\iff b = 0"),
    ("20\\% increase", "20 increase"),
    ("20\\% \\text{ increase}", "20% of the increase"),
    ("5", "|x| = \\boxed{5}"),
    ("5 ms", "5 m s"),
    ("5 meters", "5th meter"),
    ("3 hours", "3rd hour"),
    ("周长是5", "面积是5"),
    ("和为5", "差为5"),
    ("时间为5", "速度为5"),
    ("5 kg", "5岁"),
    ("5 meters", "5人"),
    ("5 minutes", "5件"),
    ("90^\\circ", "90人"),
    ("5 apples", "5名学生"),
    ("3天", "3次"),
    ("3", "Le triple est trois"),
    ("\\text{Das Maximum ist drei}", "Das Minimum ist drei"),
    ("\\text{relative minimum is } -3", "absolute minimum is -3"),
    ("f(x)=x \\forall x \\in \\mathbb{R}", "f(x) = x \\forall x \\in \\mathbb{Z}"),
    ("3", "错的是\\boxed{3}"),
    ("3", "\\cos x = \\boxed{3}"),
    ("5 km", "5 \\text{th km}"),
    ("4 hours", "4th hour"),
    ("5小时", "5岁"),
    ("7天", "7次"),
    ("7度", "7天"),
    ("8元", "8岁"),
    ("8元", "8个"),
    ("最小的是9", "最大的是9"),
    ("面积为12", "周长为12"),
    ("体积为12", "面积为12"),
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
