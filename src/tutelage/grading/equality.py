"""Are two answers equal? Cheap and exact layers decide what they can; the rest goes to a symbolic engine in a killable process."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from tutelage.grading import pool

VERSION = "1"
"""Changes whenever a verdict could change; caches of verdicts hold it in their key."""

MAX_CHARACTERS = 2_000
MAX_DIGITS = 1_000


@dataclass(frozen=True)
class Verdict:
    """`equal` is True, False, or None when a limit was met; `layer` decided; `why` is said when not equal."""

    equal: bool | None
    layer: str
    why: str = ""


def grade(gold: str, answer: str) -> Verdict:
    """Compare an answer with the reference.

    Raises:
        ValueError: the reference is empty, which would accept an empty answer.
    """
    if not gold.strip():
        raise ValueError("the reference answer is empty")
    if len(answer) > MAX_CHARACTERS + len(gold):
        return Verdict(None, "limit", f"the answer has {len(answer)} characters")
    if gold.strip() == answer.strip():
        return Verdict(True, "string")
    if (refusal := _refusal(answer)) is not None:
        return Verdict(None, "limit", refusal)
    plain_gold, plain_answer = normalize(gold), normalize(answer)
    if not plain_answer:
        return Verdict(False, "string", "the answer is empty")
    if plain_gold == plain_answer:
        return Verdict(True, "string")
    exact_gold, exact_answer = as_fraction(plain_gold), as_fraction(plain_answer)
    if exact_gold is not None and exact_answer is not None:
        return Verdict(exact_gold == exact_answer, "exact", f"{exact_answer} is not {exact_gold}")
    if _is_words(plain_gold) or _is_words(plain_answer):
        return Verdict(plain_gold.casefold() == plain_answer.casefold(), "text", "the words differ")
    equal, why = pool.symbolically_equal(plain_gold, plain_answer)
    return Verdict(equal, "symbolic", why)


def _refusal(text: str) -> str | None:
    """Why an answer is not worth handing to a parser, or None. Each test is linear in the length."""
    if "\0" in text or any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        return "the answer holds characters that no text has"
    if sum(character.isdigit() for character in text) > MAX_DIGITS:
        return f"the answer has over {MAX_DIGITS} digits"
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if deepest > 50:
        return "the answer is nested over 50 deep"
    if re.search(r"\^\s*\{?\s*-?\d{5,}", text) or re.search(r"\*\*\s*-?\d{5,}", text):
        return "an exponent has over four digits"
    if re.search(r"(\^|\*\*)[^,;=+]{0,40}(\^|\*\*)", text) and re.search(
        r"\d\s*\}*\s*(\^|\*\*)\s*[{(]*\s*-?\d+\s*[)}]*\s*(\^|\*\*)", text
    ):
        return "a tower of powers"
    if re.search(r"[\d)\]}]\s*!", text) or re.search(r"\\d?t?binom", text):
        return "factorials and binomials are not evaluated"
    return None


_UNICODE = str.maketrans(
    {"−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/", "π": "\\pi ", "∞": "\\infty ", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ",
     "∪": "\\cup ", "∩": "\\cap ", "√": "\\sqrt ", "²": "^2", "³": "^3", "½": "\\frac{1}{2}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}",
     "⅓": "\\frac{1}{3}", "⅔": "\\frac{2}{3}", "°": "^\\circ ", "\u00a0": " ", "\u2009": " ", "\u202f": " "}
)  # fmt: skip
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("`", "`"))
_COMMAND_WRAPPER = re.compile(r"\\(?:boxed|fbox|text|textbf|textit|mathrm|mathbf|mbox|displaystyle)\s*\{([^{}]*)\}")
_NOISE = re.compile(r"\\(?:left|right|displaystyle|[,;:])|\\ |~")
_THOUSANDS = re.compile(r"(-?\s*\$?\s*[1-9]\d{0,2})((?:(?:,|\{,\})\d{3})+)(\.\d+)?")  # a whole text, never part of a list


def normalize(text: str) -> str:
    """Notation removed that carries no meaning: wrappers, spacing commands, thousands separators, a trailing full stop."""
    text = text.translate(_UNICODE).replace("\\!", "").strip()  # a negative space: 1,\\!000 is 1,000
    for _ in range(8):
        before = text
        for opening, closing in _WRAPPERS:
            if len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
                inner = text[len(opening) : -len(closing)]
                if opening not in inner and closing not in inner:
                    text = inner.strip()
        if (match := _COMMAND_WRAPPER.fullmatch(text)) is not None:
            text = match.group(1).strip()
        text = text.removesuffix(".").rstrip() if not text.endswith("..") else text
        if text == before:
            break
    text = _NOISE.sub(" ", text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\%", "%").replace("\\$", "$")
    if (grouped := _THOUSANDS.fullmatch(text.strip())) is not None:
        text = grouped.group(1) + re.sub(r"\D", "", grouped.group(2)) + (grouped.group(3) or "")
    if re.fullmatch(r"-?\s*\$\s*-?[\d.]+", text):
        text = text.replace("$", "")
    return re.sub(r"\s+", " ", text).strip()


_DECIMAL = r"(?:\d+(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*(?:(?P<decimal>{_DECIMAL})"
    rf"|(?P<n>{_DECIMAL})\s*/\s*(?P<d>{_DECIMAL})"
    r"|(?P<whole>\d+\s*)?\\frac\s*(?:\{\s*(?P<fn>-?\d+)\s*\}|(?P<fn1>\d))\s*(?:\{\s*(?P<fd>-?\d+)\s*\}|(?P<fd1>\d))"
    r"|(?P<pwhole>\d+)\s+(?P<pn>\d+)\s*/\s*(?P<pd>\d+))"
)


def as_fraction(text: str) -> Fraction | None:
    """The exact rational that a normalised text denotes (3, -1.50, 7/2, \\frac12, 3\\frac{1}{2}, 3 1/2), or None."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    part = match.groupdict()
    try:
        if part["decimal"]:
            value = Fraction(part["decimal"])
        elif part["n"]:
            value = Fraction(part["n"]) / Fraction(part["d"])
        elif part["pn"]:
            value = int(part["pwhole"]) + Fraction(int(part["pn"]), int(part["pd"]))
        else:
            value = int(part["whole"] or 0) + Fraction(int(part["fn"] or part["fn1"]), int(part["fd"] or part["fd1"]))
    except ZeroDivisionError:
        return None
    return -value if part["sign"] == "-" else value


def _is_words(text: str) -> bool:
    """Plain words (two letters or more, no operators): compared as text, so that "x" and "pi" stay mathematics."""
    return re.fullmatch(r"[A-Za-z][A-Za-z'\-]*(?:[ ,]+[A-Za-z'\-]+)*", text) is not None and any(
        len(word) > 2 for word in text.split()
    )
