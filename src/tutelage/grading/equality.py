"""Are two answers equal? Cheap and exact layers decide what they can; the rest goes to workers that can be stopped.

Layers, in this order: limit, string, exact, text (here), then structure, algebra and math-verify (`symbolic`, in a worker).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from tutelage.grading import pool
from tutelage.grading.normalize import normalize
from tutelage.grading.words import same_words

VERSION = "2"
"""Changes whenever a verdict could change; caches of verdicts hold it in their key."""

MAX_CHARACTERS = 2_000
MAX_DIGITS = 1_000
MAX_DEPTH = 50


@dataclass(frozen=True)
class Verdict:
    """`equal` is True, False, or None when a limit was met (undecided); `layer` decided; `why` is said when not equal."""

    equal: bool | None
    layer: str
    why: str = ""


def grade(gold: str, answer: str) -> Verdict:
    """Compare an answer with the reference.

    Raises:
        ValueError: the reference is empty, which would accept an empty answer.
    """
    return _cheap(gold, answer) or Verdict(*pool.ask([[normalize(gold), normalize(answer)]])[0])


def grade_all(
    pairs: Sequence[tuple[str, str]], workers: int | None = None, on_graded: Callable[[int], None] | None = None
) -> list[Verdict]:
    """Compare many (reference, answer) pairs on all cores (or on as many as `workers`); one verdict a pair, in their order.

    `on_graded(n)` is called whenever n more are done, from the calling thread.

    Raises:
        ValueError: a reference is empty.
    """
    verdicts: dict[int, Verdict] = {}
    open_pairs: list[tuple[int, list[str]]] = []
    for index, (gold, answer) in enumerate(pairs):
        verdict = _cheap(gold, answer)
        if verdict is None:
            open_pairs.append((index, [normalize(gold), normalize(answer)]))
        else:
            verdicts[index] = verdict
    if on_graded is not None and verdicts:
        on_graded(len(verdicts))
    chunks = [open_pairs[start : start + 16] for start in range(0, len(open_pairs), 16)]
    for chunk, replies in pool.ask_many(chunks, [[pair for _, pair in chunk] for chunk in chunks], workers):
        for (index, _), reply in zip(chunk, replies, strict=True):
            verdicts[index] = Verdict(*reply)
        if on_graded is not None:
            on_graded(len(chunk))
    return [verdicts[index] for index in range(len(pairs))]


def _cheap(gold: str, answer: str) -> Verdict | None:
    """The layers that cost microseconds and are bounded by the length; None when they cannot decide."""
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
    if exact_gold is not None and exact_answer is not None and (exact_gold == exact_answer or _is_exact(plain_gold, plain_answer)):
        return Verdict(exact_gold == exact_answer, "exact", f"{exact_answer} is not {exact_gold}")
    if (same := same_words(plain_gold, plain_answer)) is not None:
        return Verdict(same, "text", "the words differ")
    return None


def _is_exact(gold: str, answer: str) -> bool:
    """No decimal point on either side: no tolerance can apply."""
    return "." not in gold and "." not in answer


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
    return f"the answer is nested over {MAX_DEPTH} deep" if deepest > MAX_DEPTH else None


_DECIMAL = r"(?:\d+(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*(?:(?P<decimal>{_DECIMAL})"
    rf"|(?P<n>{_DECIMAL})\s*/\s*(?P<d>{_DECIMAL})"
    r"|(?P<whole>\d+\s*)?\\frac\s*(?:\{\s*(?P<fn>-?\d+)\s*\}|(?P<fn1>\d))\s*(?:\{\s*(?P<fd>-?\d+)\s*\}|(?P<fd1>\d))"
    r"|(?P<pwhole>\d+)\s+(?P<pn>\d+)\s*/\s*(?P<pd>\d+)"
    r"|(?P<grouped>[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?))"
)


def as_fraction(text: str) -> Fraction | None:
    """The exact rational that a normalised text denotes (3, -1.50, 1,234, 7/2, \\frac12, 3\\frac{1}{2}, 3 1/2), or None."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    part = match.groupdict()
    try:
        if number := part["decimal"] or part["grouped"]:
            value = Fraction(number.replace(",", ""))
        elif part["n"]:
            value = Fraction(part["n"]) / Fraction(part["d"])
        else:
            top = Fraction(int(part["pn"] or part["fn"] or part["fn1"]), int(part["pd"] or part["fd"] or part["fd1"]))
            whole = int(part["pwhole"] or part["whole"] or 0)
            if whole and not 0 < top < 1:
                return None  # 2\frac{3}{2} is a product to some and a mixed number to others
            value = whole + top
    except ZeroDivisionError:
        return None
    return -value if part["sign"] == "-" else value
