"""Are two answers equal? Cheap and exact layers decide what they can; the rest goes to workers that can be stopped.

Layers, in this order: limit, string, exact, text (here), then structure, algebra and unreadable (`symbolic`, in a worker).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from tutelage.grading.calculating.work import OUT_OF_TIME
from tutelage.grading.reading.lexer import MAX_DIGITS
from tutelage.grading.serving import pool
from tutelage.grading.wording.normalize import HEDGE, normalize
from tutelage.grading.wording.words import same_words, texts_of_choices

MAX_CHARACTERS = 2_000
"""Longer answers, and references, are only compared as they stand."""
MAX_DEPTH = 50
MAX_TOLERANCE = Fraction(1, 10)
"""A unit of the first decimal: no decimal is met by what differs so much (see `expressions`)."""


@dataclass(frozen=True)
class Verdict:
    """`equal` is True, False, or None when a limit was met (undecided); `layer` decided; `why` explains what is not equal."""

    equal: bool | None
    layer: str
    why: str = ""

    @property
    def by_the_clock(self) -> bool:
        """Undecided because a clock ran out: another run may decide it."""
        return self.equal is None and self.why.startswith(OUT_OF_TIME)


def grade(gold: str, answer: str) -> Verdict:
    """Compare an answer with the reference.

    Raises:
        ValueError: the reference is empty, which would accept an empty answer.
    """
    return grade_all([(gold, answer)])[0]


def grade_all(
    pairs: Sequence[tuple[str, str]],
    workers: int | None = None,
    *,
    known: Mapping[tuple[str, str], Verdict] | None = None,
    on_graded: Callable[[int], None] = lambda count: None,
) -> list[Verdict]:
    """Compare many (reference, answer) pairs on all cores (or on as many as `workers`); one verdict a pair, in their order.

    Args:
        known: verdicts that need not be found again.
        on_graded: called with how many more are done, from the calling thread.

    Raises:
        ValueError: a reference is empty.
    """
    verdicts = dict(known or {})
    normal: dict[tuple[str, str], tuple[str, str]] = {}
    found: dict[tuple[str, str], Verdict] = {}

    def undecided() -> Iterator[tuple[str, str]]:
        """The normal forms, each once, of what the cheap layers do not decide; it is called while workers compare those before."""
        asked = set()
        for pair in dict.fromkeys(pairs):
            verdict = verdicts.get(pair) or _guarded(*pair)
            if isinstance(verdict, Verdict):
                verdicts[pair] = verdict
                continue
            normal[pair] = verdict
            if verdict not in asked:
                asked.add(verdict)
                yield verdict

    for request, replies in pool.ask_many(undecided(), workers):
        found.update((forms, Verdict(*reply)) for forms, reply in zip(request, replies, strict=True))
        on_graded(len(replies))
    on_graded(len(pairs) - len(found))
    return [verdicts[pair] if pair in verdicts else found[normal[pair]] for pair in pairs]


def plainly_equal(gold: str, answer: str) -> bool:
    """Whether the layers that cost microseconds call two answers equal."""
    if not (gold and answer):
        return gold == answer
    verdict = _guarded(gold, answer)
    return isinstance(verdict, Verdict) and verdict.equal is True


def _guarded(gold: str, answer: str) -> Verdict | tuple[str, str]:
    """As `_cheap`; a fault of the grader itself is a verdict with its reason, as it is in a worker, and ends no batch."""
    if not gold.strip():
        raise ValueError("the reference answer is empty")
    try:
        return _cheap(gold, answer)
    except Exception as error:
        return Verdict(None, "error", f"{type(error).__name__}: {str(error)[:200]}")


def _cheap(gold: str, answer: str) -> Verdict | tuple[str, str]:
    """The layers that cost microseconds and are bounded by the length; the two normal forms when they cannot decide."""
    if gold.strip() == answer.strip():
        return Verdict(True, "string")
    if len(answer) > MAX_CHARACTERS or len(gold) > MAX_CHARACTERS:
        return Verdict(
            None, "limit", f"over {MAX_CHARACTERS} characters ({len(gold)} in the reference, {len(answer)} in the answer)"
        )
    if (refusal := _refusal(answer)) is not None:
        return Verdict(None, "limit", refusal)
    plain_gold, plain_answer = normalize(gold), normalize(answer)
    if (refusal := _refusal(plain_answer) or _refusal(plain_gold)) is not None:  # ⑩ and （ are digits and brackets now
        return Verdict(None, "limit", refusal)
    if not plain_answer:
        return Verdict(False, "string", "the answer is empty")
    if plain_answer.startswith(HEDGE) and not plain_gold.startswith(HEDGE) and not re.search(r"\d\.\d", plain_gold):
        return Verdict(False, "text", "a hedge is no answer")
    plain_gold, plain_answer = plain_gold.removeprefix(HEDGE), plain_answer.removeprefix(HEDGE)
    if plain_gold == plain_answer:
        return Verdict(True, "string")
    exact_gold, exact_answer = as_fraction(plain_gold), as_fraction(plain_answer)
    if exact_gold is not None and exact_answer is not None:
        if exact_gold == exact_answer:
            return Verdict(True, "exact")
        if "." not in plain_gold + plain_answer or abs(exact_gold - exact_answer) >= MAX_TOLERANCE:
            return Verdict(False, "exact", f"{plain_answer} is not {plain_gold}")
    if (same := same_words(plain_gold, plain_answer)) is not None:
        return Verdict(same, "text", "" if same else "the words differ")
    if (texts := texts_of_choices(plain_gold, plain_answer)) is not None:
        return _cheap(*texts)
    return plain_gold, plain_answer


def _refusal(text: str) -> str | None:
    """Why an answer is not worth handing to a parser, or None. Each test is linear in the length."""
    if len(text) <= MAX_DEPTH and text.isprintable():
        return None
    if "\0" in text or re.search("[\ud800-\udfff]", text):
        return "characters that no text has"
    if len(text) > MAX_DIGITS and sum(map(str.isdigit, text)) > MAX_DIGITS:
        return f"over {MAX_DIGITS} digits"
    if sum(map(text.count, "([{")) <= MAX_DEPTH:
        return None
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return f"nested over {MAX_DEPTH} deep" if deepest > MAX_DEPTH else None


_DECIMAL = r"(?:\d+(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*(?:(?P<decimal>{_DECIMAL})"
    rf"|(?P<n>{_DECIMAL})\s*/\s*(?P<d>{_DECIMAL})"
    r"|(?P<integer>\d+\s*)?\\frac\s*(?:\{\s*(?P<fn>-?\d+)\s*\}|(?P<fn1>\d))\s*(?:\{\s*(?P<fd>-?\d+)\s*\}|(?P<fd1>\d))"
    r"|(?P<pinteger>\d+)\s+(?P<pn>\d+)\s*/\s*(?P<pd>\d+)"
    r"|(?P<grouped>[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?))"
)


def as_fraction(text: str) -> Fraction | None:
    """The exact rational that a normalised text denotes (3, -1.50, 1,234, 7/2, \\frac12, 3\\frac{1}{2}, 3 1/2), or None."""
    match = None if text[:1].isalpha() else _NUMBER.fullmatch(text.strip())
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
            integer = int(part["pinteger"] or part["integer"] or 0)
            if integer and not 0 < top < 1:
                return None  # 2\frac{3}{2} is a product to some and a mixed number to others
            value = integer + top
    except ZeroDivisionError:
        return None
    return -value if part["sign"] == "-" else value
