"""The reader reads a whole answer or none of it; the comparison compares what was read."""

from __future__ import annotations

import contextlib
import random
from fractions import Fraction

import pytest

from tutelage.grading.calculating.numbers import close
from tutelage.grading.calculating.values import evaluate
from tutelage.grading.calculating.work import TooLarge
from tutelage.grading.comparing.symbolic import decide
from tutelage.grading.reading.reader import read
from tutelage.grading.reading.tree import Unreadable
from tutelage.grading.wording.normalize import normalize


def value(text: str):
    return evaluate(read(normalize(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2^{10}", 1024), ("-2^2", -4), ("(-2)^2", 4), ("2^3^2", 512), ("2^{-1}", Fraction(1, 2)), ("6/2*3", 9), ("1/2*3", Fraction(3, 2)), ("3\\frac{1}{2}", Fraction(7, 2)),
        ("-3 1/2", Fraction(-7, 2)), ("2\\frac{3}{2}", 3), ("\\frac12", Fraction(1, 2)), ("\\frac1{72}", Fraction(1, 72)), ("\\frac{1}2", Fraction(1, 2)), ("0.\\overline{3}", Fraction(1, 3)),
        ("0.1\\overline{6}", Fraction(1, 6)), ("0.(142857)", Fraction(1, 7)), ("0.333...", Fraction(1, 3)), ("0.1666…", Fraction(1, 6)), ("2.5\\times 10^{2}", 250), ("2.5e2", 250), ("1500E-1", 150), ("2.5 x 10^2", 250),
        ("\\sqrt{16}", 4), ("\\sqrt[3]{-8}", -2), ("(-8)^{1/3}", -2), ("\\sqrt{\\frac{4}{9}}", Fraction(2, 3)), ("5!", 120), ("\\binom{5}{2}", 10), ("{5 \\choose 2}", 10), ("|-3|", 3), ("||1-3|-5|", 3),
        ("\\lfloor 2.7 \\rfloor", 2), ("\\lceil -2.5 \\rceil", -2), ("\\gcd(12, 18)", 6), ("lcm(4, 6)", 12), ("\\max(2, 3)", 3), ("50\\%", Fraction(1, 2)), ("17 \\bmod 5", 2), ("\\begin{vmatrix}1&2\\\\3&4\\end{vmatrix}", -2),
        ("2(3+4)", 14), ("(1+1)(2+2)", 8), ("+5", 5), ("--5", 5), ("1,234,567", 1234567), ("2^6 3^5", 64 * 243), ("{3 \\over 4}", Fraction(3, 4)), ("5\\cdot-3", -15), ("7 \\div 2", Fraction(7, 2)),
    ],
)  # fmt: skip
def test_rational_values_are_exact(text, expected):
    assert value(text) == expected and isinstance(value(text), Fraction)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("\\sqrt{8}", "2\\sqrt{2}"), ("\\sin 30°", "1/2"), ("\\sin^2 1 + \\cos^2 1", "1"), ("\\log_2 8", "3"), ("\\ln e^2", "2"), ("e^{i\\pi}", "-1"), ("\\arcsin 1", "\\pi/2"), ("\\sin^{-1} 1", "\\pi/2"),
        ("\\tan\\frac{\\pi}{4}", "1"), ("\\lg 1000", "3"), ("cosh(0)", "1"), ("2^{1/2}", "√2"), ("\\frac{1}{\\sqrt{2}}", "sqrt(2)/2"), ("|3+4i|", "5"),
    ],
)  # fmt: skip
def test_irrational_values_agree_to_many_digits(text, other):
    assert close(value(text), value(other))


@pytest.mark.parametrize(
    "text",
    [
        "", "1 +", "(1", "1)", "\\frac{1}", "x ++* 2", "\\unknown{3}", "1 2", "[1, 2", "\\{1, 2", "{1, 2", "hello 3 world 4", "|3", "\\sqrt", "3 = ", "\\begin{pmatrix}1\\\\2&3\\end{pmatrix}",
        "\\begin{tabular}1\\end{tabular}", "f(", "1 , , ) 2", "5 @ 3", "4951077 and nothing else", "the number 5 of 6", "2 3 5",
    ],
)  # fmt: skip
def test_what_is_not_whole_is_not_read(text):
    with pytest.raises(Unreadable):
        read(normalize(text))


@pytest.mark.parametrize(
    "text",
    ["(" * 70 + "1" + ")" * 70, "\\sqrt{" * 70 + "1" + "}" * 70, "1" * 1001, "x+" * 1700 + "x", "2^" * 1200 + "2", "1e99999"],
)
def test_what_would_cost_too_much_to_read_is_refused(text):
    with pytest.raises((TooLarge, Unreadable)):
        read(text)


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^{9^{9}}}",
        "10000!",
        "(((7!)!)!)!",
        "\\binom{10^9}{5}",
        "e^{e^{e^{e^e}}}",
        "2^{10^{30}}",
        "\\sin(10^{40})",
        "\\lfloor e^{100000} \\rfloor",
    ],
)
def test_what_would_cost_too_much_to_evaluate_is_refused(text):
    with pytest.raises(TooLarge):
        value(text)


EQUAL = [
    # structure
    ("1,2,3", "3, 2 and 1"), ("x=1,y=2", "(x,y)=(1,2)"), ("p=5,q=2;p=7,q=2", "(5,2),(7,2)"), ("x=\\pm 3", "x = 3 or x = -3"), ("1 \\pm \\sqrt2", "1+√2, 1-√2"), ("x_1=1,x_2=2", "2, 1"), ("[[1,2],[3,4]]", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}"),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "2\\begin{bmatrix}0.5&1\\\\3/2&2\\end{bmatrix}"), ("\\langle 1,2 \\rangle", "(1,2)"), ("]1,2[", "(1,2)"), ("(0,1)\\cup(1,2)", "(0,2)\\setminus\\{1\\}"), ("(0,2)\\cap(1,3)", "(1,2)"),
    ("x<1", "-x > -1"), ("2x > 6", "x > 3"), ("x \\ne 3", "(-\\infty,3)\\cup(3,\\infty)"), ("1\\le|z|\\le 2", "[-2,-1]\\cup[1,2]"), ("\\{x \\mid x > 3\\}", "(3,\\infty)"), ("a<x<b", "(a,b)"), ("0<f(x)<1", "(0,1)"), ("x+y<3", "2y < 6-2x"),
    ("3:4:5", "6:8:10"), ("y=2x+3", "2x-y+3=0"), ("|AB|=1", "1"), ("\\angle ABC = 30^\\circ", "30"), ("Area = 5", "5"), ("V_1:V_2=1:2", "1:2"), ("1011_2", "(1011)_2"), ("FF_{16}", "255_{10}"), ("5 = x", "x=5"),
    ("|x-1|<2", "(-1,3)"), ("x^2>5", "x<-\\sqrt5 or x>\\sqrt5"), ("x>1, x<2", "(1,2)"), ("x<1, x>2", "x<1 or x>2"),
    ("\\{x | x<1 or x>3\\}", "(-\\infty,1)\\cup(3,\\infty)"), ("\\left\\{\\begin{array}{l}x=3 \\\\ y=-1\\end{array}\\right.", "x=3, y=-1"),
    # algebra
    ("0", "\\sin\\pi"), ("(0,1)", "(\\sin\\pi, 1)"), ("csch(2)", "1/\\sinh 2"), ("x_1^2", "x^2_1"), ("\\binom{12}{5}", "C(12,5)"), ("f'(x)", "f^{\\prime}(x)"),
    ("x(x+1)", "x^2+x"), ("f_1 + f_2", "f_2+f_1"), ("\\tan^2 y + 1", "\\sec^2 y"), ("\\frac{n(n+1)}{2}", "(n^2+n)/2"), ("a^{-1}", "1/a"), ("\\sqrt[3]{x}^2", "x^{2/3}"), ("e^{x+y}", "e^x e^y"), ("\\ln(xy)", "ln x + ln y"),
    ("y''_1", "y_1''"), ("\\bar{x}_n", "\\overline{x}_n"), ("\\sum_{k=1}^n k^2", "\\sum_{j=1}^{n} j^2"), ("\\int_0^x t dt", "\\int^x_0 t\\,dt"), ("gcd(a,b)", "\\gcd(b, a)"), ("\\lfloor x \\rfloor", "floor(x)"), ("x \\equiv 2 \\pmod 5", "x ≡ 2 (mod 5)"),
    ("7.5\\text{ meters}", "7.5 m"), ("5 cm^2", "5 square centimeters"), ("3 \\text{ m/s}", "3 m/s"), ("12 km/h", "12 kph"), ("18 dollars per day", "18 dollars/day"), ("$5", "5 dollars"),
]  # fmt: skip
DIFFERENT = [
    ("1,2,3", "1,2"), ("1,2", "1,2,3"), ("(1,2)", "(2,1)"), ("[1,2)", "(1,2)"), ("(1,2)", "(1,2,3)"), ("\\{1,2\\}", "\\{1,3\\}"), ("x=1,y=2", "x=2,y=1"), ("x = 2, 3", "x = 2"), ("\\pm 3", "3"), ("x<1", "x \\le 1"), ("x<1", "x>1"), ("2x > 6", "x > 6"),
    ("(0,1)\\cup(1,2)", "(0,2)"), ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{pmatrix}1&2\\\\4&3\\end{pmatrix}"), ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\\\3\\end{pmatrix}"), ("7 = 11a+c", "11a+c"), ("2x+z=1", "1"), ("x=5", "y=5"),
    ("y=2x+3", "y = \\frac{x-3}{2}"), ("3:4", "4:3"), ("52_8", "528"), ("4343_6", "4343_7"), ("5 cm", "5 m"), ("5 seconds", "5 m"), ("5", "5m"), ("5x", "5 m"), ("5 cm", "5 cm^2"), ("\\sin x = 1", "\\cos x = 1"), ("x \\in [1,2]", "x \\in (1,2]"), ("x \\equiv 2 \\pmod 5", "x \\equiv 3 \\pmod 5"),
    ("x+2n+1", "x+1"), ("a+5", "t+5"), ("\\sqrt{x^2}", "x"), ("2^{2005}+1", "2^{2005}"), ("\\frac{1}{2004!}", "\\frac{1}{2006!}"), ("\\frac{1}{2^{99}}", "\\frac{1}{2^{98}}"), ("\\sqrt{10^{100}+1}", "10^{50}"), ("e^{-1000}", "0"), ("x^{100}", "x^{101}"),
    ("\\sum_{k=1}^n k", "\\sum_{k=0}^{n-1} k^2"), ("12345678901234567890123", "12345678901234567890124"), ("6 - 5i", "6 + 5i"), ("\\overline{x}", "x"), ("x_1", "x_2"), ("f'(x)", "f(x)"), ("1, 2, \\ldots, n", "1, 3, \\ldots, n"), ("1\\frac{4}{5}", "14/5"),
    ("x<1 or x>2", "x<1 and x>2"), ("|x-1|<2", "(-1,3.01)"), ("x^2>5", "x>2.236 or x<-2.236"), ("5 cm", "5\\%"), ("|x|=x", "x=0"), ("x>3", "1, 2"),
    ("1,005", "1,5"), ("(1,2,3]", "(1,2,3)"), ("k=1,b=2", "b=1,b=2"),
    ("x_1=2,x_2=5", "x_1=5,x_2=2"), ("a_3=2,a_5=1", "a_4=2,a_5=1"), ("f(1)<f(2)", "f(2)<f(1)"), ("x \\in [1,2]", "y \\in [1,2]"),
    ("0<x<1", "0>x<1"), ("10{,}000", "9999.857"), ("f(x) = 0", "\\forall x>0, f(x) = 0"), ("4", "4\\sqrt(2)"), ("AB", "AC"), ("x^2", "x*2"), ("5", "5!"), ("5", "-5"), ("(1,\\infty)", "(-\\infty, 1)"),
]  # fmt: skip


def cases(pairs):
    """The pairs, those slow that calculate sums."""
    return [pytest.param(*pair, marks=[pytest.mark.slow] if "\\sum" in pair[0] else []) for pair in pairs]


@pytest.mark.parametrize(("gold", "answer"), cases(EQUAL))
def test_equal_answers_are_equal_in_both_directions(gold, answer):
    assert decide(normalize(gold), normalize(answer))[0] is True
    assert decide(normalize(answer), normalize(gold))[0] is True


@pytest.mark.parametrize(("gold", "answer"), cases(DIFFERENT))
def test_different_answers_are_different_in_both_directions(gold, answer):
    assert decide(normalize(gold), normalize(answer))[0] is False
    assert decide(normalize(answer), normalize(gold))[0] is False


PIECES = ["\\frac{", "}", "{", "(", ")", "[", "]", "\\{", "\\}", "|", "^", "_", ",", ";", "=", "<", "\\le ", "\\cup ", "\\pm ", "\\sqrt", "\\sin ", "\\log", "\\begin{pmatrix}", "\\end{pmatrix}",
          "&", "\\\\", "\\text{ cm}", " and ", "%", "!", "'", ":", "x", "f", "n", "AB", "1", "2.5", "1,000", "0.\\overline{3}", "\\pi ", "\\infty ", "\\int_0^1 ", "\\sum_{k=1}^n ", "+", "-", "*", "/", " ", "\\in ", "\\mathbb{R}", "words ", "\\pmod 5"]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_no_text_makes_our_own_code_fail(seed):
    """Every random text is right, wrong or over a limit: an exception other than those two is a bug."""
    draw = random.Random(seed)
    for _ in range(500):
        gold, answer = ("".join(draw.choice(PIECES) for _ in range(draw.randint(1, 9))) for _ in range(2))
        normal = normalize(gold), normalize(answer)
        if "\\int" in gold + answer or "\\sum" in gold + answer or not all(normal):
            for text in normal:  # to calculate them takes its time: they are only read
                with contextlib.suppress(Unreadable, TooLarge):
                    read(text)
            continue
        assert decide(*normal)[1] in ("structure", "algebra", "exact", "unreadable", "limit"), (gold, answer)
