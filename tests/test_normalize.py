"""Each rule of the normaliser removes what it should, and nothing else would: without it the text stays different."""

from __future__ import annotations

import re
import unicodedata

import pytest

from tutelage.grading.wording import normalize as rules
from tutelage.grading.wording import notations as notation_rules
from tutelage.grading.wording.normalize import normalize

RULE_EXAMPLES = [
    (rules.unicode_symbols, "½", r"\frac{1}{2}"),
    (rules.unicode_symbols, "3²", "3^{2}"),
    (rules.unicode_symbols, "x⁻¹₀", "x^{-1}_{0}"),
    (rules.unicode_symbols, "√2", r"\sqrt 2"),
    (rules.unicode_symbols, "−3", "-3"),
    (rules.unicode_symbols, "2 × 3 ⋅ 4", r"2 \times 3 \cdot 4"),
    (rules.unicode_symbols, "θ", r"\theta"),
    (rules.unicode_symbols, "Δ", r"\Delta"),
    (rules.unicode_symbols, "１２", "12"),
    (rules.unicode_symbols, "0.3\u0305", r"0.\overline{3}"),
    (rules.unicode_symbols, "𝑥", "x"),
    (rules.escapes, r"\\frac{1}{2}", r"\frac{1}{2}"),
    (rules.escapes, "\frac{1}{2}", r"\frac{1}{2}"),
    (rules.escapes, "2 \times 3", r"2 \times 3"),
    (rules.escapes, "\boxed{7}", "7"),
    (rules.escapes, "185\\", "185"),
    (rules.html_markup, "<b>7</b>", "7"),
    (rules.html_markup, "x<sup>2</sup>", "x^{2}"),
    (rules.html_markup, "x<sub>1</sub>", "x_{1}"),
    (rules.html_markup, "2 &times; 3", r"2 \times 3"),
    (rules.html_markup, "x &lt; 3", "x < 3"),
    (rules.lines, "1\n2\n3", "1, 2, 3"),
    (rules.lines, "- 1\n- 2", "1, 2"),
    (rules.latex_synonyms, r"\dfrac12", r"\frac{1}{2}"),
    (rules.latex_synonyms, r"2,\quadx", "2, x"),
    (rules.latex_synonyms, r"x\,000", "x 000"),
    (rules.latex_synonyms, r"x \leq 1", r"x \le 1"),
    (rules.wrappers, "$7$", "7"),
    (rules.wrappers, r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (rules.wrappers, r"\boxed{2} and \boxed{3}", "2, 3"),
    (rules.wrappers, r"$x$ and $y$", "x and y"),
    (rules.wrappers, r"\text{east}", "east"),
    (rules.wrappers, "The answer is east.", "east"),
    (rules.wrappers, "#### 7", "7"),
    (rules.wrappers, "about 7", r"\approx 7"),
    (rules.parts, "(a) 5, (b) 6", "(5, 6)"),
    (rules.translated, "答案是7。", "7"),
    (rules.translated, "7元", "7\\text{ ¥}"),
    (rules.said, "There are 7 ways.", "7"),
    (rules.said, "The value of $x + y$ is $7$.", "7"),
    (rules.said, "7 (since 3 + 4 = 7)", "7 = 3 + 4 = 7"),
    (rules.said, "3/4 (or 0.75)", "3/4 = 0.75"),
    (rules.notations, "C_{10}^3", r"\binom{10}{3}"),
    (rules.groups, "1.234,56", "1234.56"),
    (rules.groups, "1'234", "1234"),
    (rules.phrases, "two thirds", "2/3"),
    (rules.phrases, "minus eight", "-8"),
    (rules.phrases, "all real numbers except -4", r"\mathbb{R} \setminus \{-4\}"),
    (rules.phrases, "3 to 4", "3:4"),
    (rules.wrappers, "7.", "7"),
    (rules.wrappers, r"$\boxed{\text{east}}$.", "east"),
    (rules.conclusion, r"2x = 6 \implies x = 3", "x = 3"),
    (rules.cases, "x if x > 0, -x otherwise", r"\begin{cases} x & x > 0 \\ -x & \text{otherwise} \end{cases}"),
    (rules.spaces, "1 000 000", "1000000"),
    (rules.spaces, "x  +  1", "x + 1"),
    (rules.phrases, r"\text{No positive solution.}", r"\emptyset"),
    (rules.phrases, "all real numbers", r"\mathbb{R}"),
    (rules.phrases, "DNE", "does not exist"),
]


@pytest.mark.parametrize(("rule", "text", "normal"), RULE_EXAMPLES)
def test_each_rule_is_needed(rule, text, normal, monkeypatch):
    assert normalize(text) == normal
    monkeypatch.setattr(rules, "RULES", [other for other in rules.RULES if other is not rule])
    normalize.cache_clear()
    assert normalize(text) != normal


@pytest.fixture(autouse=True)
def no_answer_is_remembered():
    normalize.cache_clear()
    yield
    normalize.cache_clear()


def test_every_rule_has_an_example():
    assert {rule for rule, _, _ in RULE_EXAMPLES} == set(rules.RULES)


TABLE_EXAMPLES = {
    "SYNONYMS": [
        (r"\left\{\begin{array}{l}x=3 \\ y=1\end{array}\right.", r"\begin{cases}x=3 \\ y=1\end{cases}"), (r"\tfrac{a}{b}", r"\frac{a}{b}"),
        (r"\begin{align*} x &= 1 + 1 \\ &= 2 \end{align*}", "x = 1 + 1 = 2"), (r"A \ B", r"A \setminus B"), (r"\boxed{\frac{1}{2}", r"\frac{1}{2}"),
        (r"X \sim N(0, 1)", "X = N(0, 1)"),
        (r"f^{\prime\prime}(x)", "f''(x)"), (r"0^{+}", "0^+"), (r"\left(1, 2\right)", "(1, 2)"), (r"11,\! 111", "11,111"), (r"1\,000", "1,000"),
        (r"1\quad 2", "1 2"), ("a~b", "a b"), (r"12^{\text{th}}", r"12\text{th}"), ("12^{th}", r"12\text{th}"),
        (r"\frac{\mathrm{d}}{\mathrm{d}x}", r"\frac{d}{dx}"), (r"\root 3 \of 7", r"\sqrt[3] 7"), (r"\frac1{72}", r"\frac{1}{72}"), (r"\frac{a}2", r"\frac{a}{2}"),
        ("321 in base 5", "321_5"), ("1{,}000", "1,000"), (r"x \not= 1", r"x \ne 1"), (r"90^{\circ}", r"90\degree"),
        (r"\operatorname{lcm}(a)", r"\lcm (a)"), (r"0.\bar 3", r"0.\overline 3"), ("0.333...", r"0.333\ldots"),
    ],
    "NOTATIONS": [
        (r"20^\circ C", r"20\text{ degrees Celsius}"), (r"5\,\mathrm{m\cdot s^{-1}}", r"5 \text{ m s^-1}"),
        (r"\frac{\partial f}{\partial x}", "f_{x}"), (r"\frac{\partial^2 f}{\partial x \partial y}", "f_{xy}"), (r"\frac{d^2y}{dx^2}", "y''"),
        (r"(f \circ g)(x)", "f(g(x))"), (r"\mathbb{R}^+", r"(0, \infty)"), (r"k \in \mathbf{Z}", r"k \in \mathbb{Z}"), (r"n \in \mathbb{N}^*", r"n \in \mathbb{N}"),
        ("101 in binary", "101_2"), (r"\overline{2012}_3", "2012_3"), ("4……1", "4 remainder 1"), ("{x|x>3}", r"\{x|x>3\}"), ("4 R 1", "4 remainder 1"), (r"\mathbf{i}+\vec{j}", r"\hat{i}+\hat{j}"), (r"\boldsymbol{a}+2\mathbf{b}", r"\vec{a}+2\vec{b}"),
        (r"[1 2]^T", "[1,2]^T"), (r"[1,2]^{\mathsf{T}}", "[1,2]^T"), (r"\mathrm{C}_7^3", r"\binom{7}{3}"), ("C_{10}^3", r"\binom{10}{3}"), ("C^3_{10}", r"\binom{10}{3}"),
        ("_{10}C_3", r"\binom{10}{3}"), ("10C3+1", r"\binom{10}{3}+1"), (r"10 \choose 3", r"\binom{10}{3}"), (r"2\mathrm{A}_{16}", "2A_{16}"),
        ("1011 (base 2)", "1011_{2}"), ("0xFF", "FF_{16}"), ("0b1011", "1011_{2}"), ("7 per cent", "7 percent"), (r"\frac{dy}{dx}", "y'"),
        ("dy/dx", "y'"), ("5 N, directed to the left", "5 N to the left"), ("P(A|B)", "P_{|}(A, B)"), ("22°30'", r"\frac{81000}{3600}\degree"),
        ("x=3orx=5", "x=3 or x=5"), ("∂f/∂x + 1", "f_{x} + 1"), ("2+3j", "2+3i"), ("2 - 5*I", "2 - 5i"), ("math.sqrt(3)/2", "sqrt(3)/2"),
        ("Rational(3, 4)", "3/4"), ("np.array([1, 2])", "[1, 2]"), ("set([1, 2])", r"\{1, 2\}"), ("[5 0; -2 1]", "[[5, 0], [-2, 1]]"),
        ("{'a', 'b'}", "{a, b}"), ("x1 = 2", "x_1 = 2"), ("c1*e^x", "c_1*e^x"), (r"A^c \cup B^c", r"A'\cup B'"), ("p (mod 4)", r"p \pmod{4}"),
        ("2 (multiplicity 2), 5", "2, 2, 5"), ("8‰", r"\frac{8}{10}\%"), (r"x=0 \lor x=5", "x=0 or x=5"), (r"x \mapsto x^2", "f(x) = x^2"),
        (r"72\,\text{km}\cdot\text{h}^{-1}", r"72 \text{km h^-1}"), (r"p \Rightarrow q", r"p \to q"), ("vertical asymptote x = 2", "x = 2"),
        ("A is similar to B", r"A \sim B"), (r"\dim V", r"\text{dim} V"), ("triangle ABC", r"\triangle ABC"), (r"\mathbb{E}[X]", "E[X]"), ("3 x 60", r"3 \times 60"),
        (r"x^2 + \text{const}", "x^2 + C"),
        (r"5\frac{\text{km}}{\text{h}}", r"5\text{ km/h}"), (r"n \text{ odd}", r"n \equiv 1 \pmod{2}"), ("all odd n", r"n \equiv 1 \pmod{2}"), ("n is divisible by 3", r"n \equiv 0 \pmod{3}"),
        (r"3 \mid n", r"n \equiv 0 \pmod{3}"), (r"\underline{7}+1", "7+1"),
        (r"\begin{cases} 1 & \text{if } x>0 \end{cases}", r"\begin{cases} 1 & x>0 \end{cases}"), (r"\text{7 cm}^2", r"7\text{ cm}^2"),
        (r"1/4\%", r"\frac{1}{4}\%"), ("USD 7", "$7"), ("2 hours and 30 minutes", "2 hours 30 minutes"),
    ],
    "GROUPS": [
        ('7"', "7 inches"), ("5'6\"", "5 feet 6 inches"),
        ("(0,5; 2)", "(0.5, 2)"), ("1.234.567", "1234567"), ("3,50 €", "3.50 €"), ("$2M", "$2 million"), ("2{:}30", "2:30"), ("2 & 3", "2, 3"), (r"k\pi(k \in \mathbb{Z})", r"k\pi, k \in \mathbb{Z}"),
        ("y=2x (x>0)", "y=2x, x>0"), (r"f(x)=2x \quad \forall x \in \mathbb{R}", "f(x)=2x"), ("5 PM", "5:00 Pm"), ("5.30 pm", "5:30 pm"), ("2 h 30 min", "2 hours 30 minutes"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("table", "index"), [(table, index) for table in TABLE_EXAMPLES for index in range(len(getattr(notation_rules, table)))])
def test_each_notation_is_needed(table, index, monkeypatch):
    text, normal = TABLE_EXAMPLES[table][index]
    assert normalize(text) == normal
    normalize.cache_clear()
    entries = getattr(notation_rules, table)
    monkeypatch.setattr(notation_rules, table, entries[:index] + entries[index + 1 :])
    assert normalize(text) != normal


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("C^3_{10}+A_{10}^3", r"\binom{10}{3}+\perm{10}{3}"), ("{}_{10}P_3", r"\perm{10}{3}"), ("C_3^{10}", "C_3^{10}"), ("P_n^k", "P_n^k"),
        (r"20\degree F", r"20\text{ degrees Fahrenheit}"), ("n even", r"n \equiv 0 \pmod{2}"), ("EUR 7", "€7"), ("Rs. 7", "₹7"),
        (r"[1,2]^\intercal", "[1,2]^T"), ("1.234,56", "1234.56"), ("1 234,56", "1234.56"), ("1'234.5", "1234.5"), ("1_234", "1234"),
        ("1.234", "1.234"), ("1.234,567", "1.234,567"), (r"x \geq 1", r"x \ge 1"), (r"x \lt 1", "x < 1"), (r"\dbinom{4}{2}", r"\binom{4}{2}"),
        (r"a\;b", "a b"), (r"\color{red}5", "5"), (r"\large 5", "5"), ("5 ✓", "5"), ("\u202e15", "\u202e15"),
    ],
)  # fmt: skip
def test_notations_of_one_kind_become_one(text, normal):
    assert normalize(text) == normal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Hence the least value is 7.", "7"), ("Đáp án: 7", "7"), ("$x$ must be 7", "x = 7"),
        ("7 is the only solution.", "7"), ("7 is the required sum", "7"), ("He needs 7 more apples.", "7"), ("He paid 7 dollars for the book.", "7 dollars"),
        ("There are a total of 7 marbles.", "7"), ("The answer is $7$. I hope it is correct.", "7"), ("All positive real numbers", r"(0, \infty)"),
        *((text, text) for text in ("One of the values is 7", "I guess it is 7", "It is at most 7", "7 (as half of it)", "positive numbers")),
    ],
)  # fmt: skip
def test_a_sentence_says_its_one_value(text, value):
    assert normalize(text) == value


@pytest.mark.parametrize("pair", rules._PAIRS)
def test_each_wrapper_is_taken_off(pair, monkeypatch):
    text = f"{pair[0]} 7 {pair[1]}"
    assert normalize(text) == "7"
    monkeypatch.setattr(rules, "_PAIRS", ())
    normalize.cache_clear()
    assert normalize(text) != "7"


@pytest.mark.parametrize("symbol", rules._SYMBOLS)
def test_each_symbol_becomes_latex_or_ascii(symbol, monkeypatch):
    text = f"1{symbol}2"
    with_symbol = normalize(text)
    assert with_symbol.isascii()
    monkeypatch.setattr(rules, "_SYMBOLS", {})
    normalize.cache_clear()
    assert normalize(text) != with_symbol or unicodedata.normalize("NFKC", symbol).isascii()


@pytest.mark.parametrize(
    "text",
    [
        "1,-2",
        "[1,2)",
        r"\{1,2\}",
        r"x^2 - 1",
        "Yes!",
        "0.5",
        "1 1/2",
        "a < b > c",
        r"\begin{pmatrix}1\\2\end{pmatrix}",
        "$5 and $6",
        "f(x) = 2x",
        "5 * 3 * 2",
    ],
)
def test_what_carries_meaning_stays(text):
    assert re.sub(r"\s", "", normalize(text)) == re.sub(r"\s", "", text)


def test_no_rule_changes_digits():
    """`normalize` returns them at once."""
    for text in ("0", "007", "1234567", "12" * 300):
        changed = text
        for rule in rules.RULES:
            changed = rule(changed)
        assert changed == normalize(text) == text
