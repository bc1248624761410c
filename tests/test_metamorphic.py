"""Changed copies of the labelled pairs: what is only written in another way keeps its verdict, what says something else loses it.

The pairs are those of tests/data on which grader and label agree. A change that does not apply to a text gives the text itself, or (by
kind, with its reason) none.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tutelage.grading import grade_all

pytestmark = pytest.mark.slow

Pair = tuple[str, str]
Change = Callable[[str], str | None]
SAMPLE = 16
"""Pairs of each label that a change of a side is tried on."""


AS_IT_STANDS = re.compile(r"\\text\{ ?\((?:1|a)\) \}|hours and \}")
"""Numbered parts, and an "and" between units, are read in \\text alone, and not behind a space or a size: a known weakness."""


@functools.cache
def agreed() -> dict[bool, list[Pair]]:
    """The pairs by label."""
    rows = [json.loads(line) for file in sorted((Path(__file__).parent / "data").glob("*.jsonl")) for line in file.read_text().splitlines()]
    verdicts = grade_all([(row["gold"], row["pred"]) for row in rows])
    return {
        label: [
            (row["gold"], row["pred"])
            for row, verdict in zip(rows, verdicts, strict=True)
            if verdict.equal is label is row["equal"] and not AS_IT_STANDS.search(row["gold"] + row["pred"])
        ]
        for label in (True, False)
    }


def texts() -> list[str]:
    """Both sides of the pairs that are right."""
    return sorted({text for pair in agreed()[True] for text in pair})


def sample(items: list[Pair], count: int = SAMPLE) -> list[Pair]:
    """The same ones each time, whichever tests run before."""
    return random.Random(20).sample(items, min(len(items), count))


# ── the same in other words ───────────────────────────────────────────────────────────────────────────────────────────


def has_markup(text: str) -> bool:
    """Delimiters, tags or Markdown of its own, or backslashes escaped once more: a wrapping would mix two ways of writing."""
    return bool(re.search(r"(?<!\\)\$|\\[()\[]|<[a-z/]|\*\*|`|\\\\[A-Za-z%]", text))


def is_remark(text: str) -> bool:
    """4\\sqrt{2}\\text{ (approximately } 5.66): its brackets are half in words."""
    return bool(re.search(r"approximately|i\.e\.|e\.g\.|since|because", text))


def is_sentence(text: str) -> bool:
    return bool(re.search(r"\b(?:is|are)\b|[:.]\s*[$)\]\\]*$", text))


def wrapped(before: str, behind: str = "") -> Change:
    return lambda text: None if has_markup(text) or is_remark(text) else before + text + behind


def said(before: str, behind: str = "") -> Change:
    return lambda text: None if is_sentence(text) or "*" in text else before + text + behind


def command(old: str, new: str, *, unless: Callable[[str], bool] = lambda text: False) -> Change:
    """Another command of the same meaning; `old` is a pattern of one command's name."""
    return lambda text: None if unless(text) or "\\\\" in text else re.sub(rf"\\(?:{old})(?![A-Za-z])", lambda _: f"\\{new}", text)


def text_style(old: str, new: str) -> Change:
    def change(text: str) -> str | None:
        return None if is_sentence(text) or is_remark(text) else re.sub(rf"\\{old}\s*\{{(?!d\}})", lambda _: f"\\{new}{{", text)

    return change


def words_in(new: str) -> Change:
    """Words in another style. Units, cases and what stands beside numbers are left out: there the grader knows \\text alone."""
    return lambda text: None if re.search(r"\d|\\begin|\^", text) else text_style("text", new)(text)


def replaced(old: str, new: str) -> Change:
    return lambda text: text.replace(old, new)


def sized(left: str, right: str) -> Change:
    """Round brackets of another size, in mathematics without words and labels such as (a)."""

    def change(text: str) -> str | None:
        words = re.search(r"(?<![\\A-Za-z])[A-Za-z]{2,}|\([a-e]\)", text)
        sizes = re.search(r"\\(?:left|right|big)|[\[\]]", text, re.IGNORECASE)
        if words or sizes or has_markup(text) or text.count("(") != text.count(")"):
            return None
        return re.sub(r"[()]", lambda bracket: (left if bracket[0] == "(" else right) + bracket[0], text)

    return change


def spaced(text: str) -> str | None:
    """A space on both sides of each sign between two terms."""
    if has_markup(text) or re.search(r"[<>]=|==|[A-Za-z]{3,}\s|[A-Za-z]-", text):
        return None
    return re.sub(r"(?<=[\w})])\s*([+=<>-])\s*(?=[\w\\({])", r" \1 ", text)


THE_SAME: dict[str, Change] = {
    "in dollars": wrapped("$", "$"), "in two dollars": wrapped("$$", "$$"), "in round delimiters": wrapped(r"\(", r"\)"),
    "displayed": wrapped("\\[\n", "\n\\]"), "boxed": wrapped(r"\boxed{", "}"), "boxed in dollars": wrapped(r"$\boxed{", "}$"),
    "framed": wrapped(r"\fbox{", "}"), "boxed and displayed": wrapped(r"\[ \boxed{", r"} \]"), "boxed with a full stop": wrapped(r"$\boxed{", "}$."),
    "full stop in dollars": lambda text: None if is_sentence(text) else wrapped("$", ".$")(text), "in display style": wrapped(r"\displaystyle "),
    "large": wrapped(r"\large "), "behind text": wrapped(r"\text{The answer is }"),
    "thin spaces": wrapped(r"\, ", r" \,"), "quads": wrapped(r"\quad ", r" \quad"), "bold mathematics": wrapped(r"\mathbf{", "}"),
    "a sentence": said("The answer is ", "."), "a conclusion": lambda text: None if is_sentence(text) else wrapped("So the answer is $", "$.")(text),
    "a final box": wrapped(r"Therefore, the final answer is $\boxed{", "}$."), "a label": said("Answer: "), "a bold label": said("**Answer:** "),
    "bold": said("**", "**"), "behind marks": said("#### "), "space around": said("  ", " \n"), "a full stop": said("", "."),
    "left and right": sized(r"\left", r"\right"), "big": sized(r"\big", r"\big"), "bigl and bigr": sized(r"\bigl", r"\bigr"), "spaced": spaced,
    "dfrac": command("[t]?frac", "dfrac"), "tfrac": command("[d]?frac", "tfrac"), "le": command("leq?|leqslant", "le"), "leq": command("le|leqslant", "leq"),
    "leqslant": command("leq?", "leqslant"), "ge": command("geq?|geqslant", "ge"), "geq": command("ge|geqslant", "geq"), "ne": command("neq", "ne"),
    "times": command("cdot", "times", unless=lambda text: r"\vec" in text),  # of vectors they are two products
    "cdot": command("times", "cdot", unless=lambda text: r"\vec" in text), "varnothing": command("emptyset", "varnothing"),
    "mathrm": text_style("text", "mathrm"), "text": text_style("mathrm", "text"),
    "textrm": words_in("textrm"), "textbf": words_in("textbf"), "minus sign": replaced("-", "−"), "π": replaced(r"\pi", "π"),
    "∞": replaced(r"\infty", "∞"), "∪": replaced(r"\cup", "∪"), "°": lambda text: re.sub(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})", "°", text),
}  # fmt: skip


def outcomes(change: Change, label: bool) -> Iterator[tuple[Pair, bool | None]]:
    """(pair, verdict) of pairs with one side changed."""
    for side in (0, 1):
        changed = [(pair, change(pair[side])) for pair in agreed()[label]]
        pairs = [(pair[0], text) if side else (text, pair[1]) for pair, text in changed if text is not None and text != pair[side]]
        chosen = sample(pairs)
        yield from ((pair, verdict.equal) for pair, verdict in zip(chosen, grade_all(chosen), strict=True))


@pytest.mark.parametrize("name", THE_SAME)
def test_what_is_written_in_another_way_keeps_its_verdict(name):
    refused = [pair for pair, equal in outcomes(THE_SAME[name], True) if not equal]
    accepted = [pair for pair, equal in outcomes(THE_SAME[name], False) if equal]
    assert (refused, accepted) == ([], [])


def test_each_way_of_writing_is_met_by_pairs():
    assert [name for name, change in THE_SAME.items() if all(change(text) in (None, text) for text in texts())] == []


# ── the two sides in each other's place ───────────────────────────────────────────────────────────────────────────────


def has_a_direction(pair: Pair) -> bool:
    """Kinds of which the conventions (docs/grading.md) say something else for a reference than for an answer."""
    decimal = [bool(re.search(r"\d\.\d", text)) for text in pair]  # rounding: by the digits of the reference
    based = [bool(re.search(r"[\dA-F}]_|base", text)) for text in pair]  # a base may be left out where the reference has it
    worded = [bool(re.search(r"\d\s*(?:\\text\{)?\s*[a-z]{2,}", text)) for text in pair]  # what a reference has behind a number is a unit
    binary = any(re.search(r"\.\d{12}", text) for text in pair)  # as a computer prints a fraction: correct to so many digits
    hedged = any(re.search(r"approx|≈|~|probably|about|roughly|maybe", text) for text in pair)  # a hedge is no answer, but may be a reference
    integral = any(re.search(r"\\int", text) for text in pair)  # its work is counted, and both orders cost different amounts
    return decimal[0] != decimal[1] or based[0] != based[1] or worded[0] != worded[1] or hedged or integral or binary


def test_reference_and_answer_in_each_others_place_keep_the_verdict():
    for label in (True, False):
        pairs = [(answer, gold) for gold, answer in agreed()[label] if answer.strip() and not has_a_direction((gold, answer))]
        chosen = sample(pairs, 300)
        assert [pair for pair, verdict in zip(chosen, grade_all(chosen), strict=True) if bool(verdict.equal) is not label] == []


# ── something else ────────────────────────────────────────────────────────────────────────────────────────────────────


def another_digit(text: str) -> Iterator[str]:
    for match in re.finditer(r"\d", text):
        yield text[: match.start()] + random.Random(text).choice([digit for digit in "123456789" if digit != match[0]]) + text[match.end() :]


def another_sign(text: str) -> Iterator[str]:
    for match in re.finditer("[-+]", text):
        yield text[: match.start()] + ("+" if match[0] == "-" else "-") + text[match.end() :]
    if re.match(r"[1-9]|\\(?:frac|sqrt|pi)", text):
        yield "-" + text


def another_letter(text: str) -> Iterator[str]:
    """One letter that stands alone, of a name."""
    names = re.sub(r"\\[A-Za-z]+(?:\{[A-Za-z]+\})?", lambda command: "\\" * len(command[0]), text)
    for match in re.finditer(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])", names):
        yield text[: match.start()] + random.Random(text).choice([letter for letter in "pqvwz" if letter != match[0].lower()]) + text[match.end() :]


SAYS_THE_SAME = {
    "mod|equiv|≡": "another residue of the same class",
    "approx|≈": "an approximation behind an exact value does not count",
    r"\\l?(?:ceil|floor)|⌈|⌊": "two numbers between the same integers",
    r"\\(?:lim|sum|int|prod)": "its variable is bound, and the limit of a constant is taken anywhere",
    r"\\begin|pt\]": "the letters and lengths of a layout",
    r"[A-Za-z]_": "a subscript is a part of a name, which may be left out",
    r"[A-Za-z]'": "a derivative at a point is not read as an opaque value",
    r"\\overline|\\bar": "a conjugate is not told from its number",
    r"\}\s*\^\s*\{?[-+]": "the exponent of a unit is not read",
    r"(?<!\d)0": "0 and -0",
    r"\|.*\di": "a complex number and its conjugate have one size",
    r"\\(?:boxed|fbox)": "only the box is read",
    r"\\in(?![a-z])|\\mathbb": "the letter of a parameter",
    r"[A-Za-z]\s*\(": "the argument of a function",
    "[A-Za-z]{2,}=": "a name in front",
    "=.*=": "a name that stands twice",
    r"</": "a tag",
    r"\+ ?C(?![a-z])": "a constant of integration is shifted",
    r"(?<![A-Za-z])[a-z][1-9]": "the number of a name",
    r"\d ?[a-z]+(?:/[a-z]+)? [*x]": "a unit within a calculation",
    r"\.\d{12}": "the last digits that a computer prints",
    r"\\d?binom|C_|P_": "two binomial coefficients are one number",
    r"=\s*\d+[k-n]": "a residue class, whose letter counts",
    r"\(-1\)\s*\^": "the power of -1 is that of every second number",
    r"\}\s*\([A-Z]\)": "the argument of a function that is written as a word",
    r"units": "the exponent of an unnamed unit",
    r"(?:\\pi|π|\\circ|°)[^,]*(?<![a-z\\])[knm](?![a-z])|(?<![a-z\\])[knm]\s*(?:\\pi|π)": "a family with a parameter runs both ways",
    r"(?<![\\A-Za-z{])[^\W\d_]{3,}": "a sentence or a remark: not all of it is the answer",
}
"""Kinds that are left out, by a pattern of what is in the text, and why one character may change without another answer."""
ANOTHER = {"digit": another_digit, "sign": another_sign, "letter": another_letter}


@pytest.mark.parametrize("what", ANOTHER)
def test_one_changed_character_is_another_answer(what):
    plain = [text for text in texts() if not any(re.search(pattern, text) for pattern in SAYS_THE_SAME)]
    pairs = [(text, changed) for text in plain for changed in ANOTHER[what](text)]
    assert len(pairs) > 300
    chosen = sample(pairs, 400)
    assert [pair for pair, verdict in zip(chosen, grade_all(chosen), strict=True) if verdict.equal] == []
