"""What counts as the answer of a text: of a response, of a worked solution, of a text that ends in ``#### 5``."""

from __future__ import annotations

import re

from tutelage.grading.equality import plainly_equal
from tutelage.grading.taking.format import MARKUP, boxes, stands_alone
from tutelage.grading.wording.vocabulary import listed, words_of

MOST_BOXES = 50
"""Of a solution with more boxes, the last ones are looked at."""
ONE_SENTENCE = 200
"""Characters between two boxes of one sentence, at most."""


_TAGGED = re.compile(r".*</think>\s*<answer>(.*)</answer>", re.DOTALL)


def tagged_answer(response: str) -> str | None:
    """The answer in the answer block, or None if the response is not one think block followed by one answer block.

    The rule: each tag occurs once (the opening ``<think>`` may stand in the prompt instead), in this order; before the think
    block, between the blocks and after the answer block there is white space or nothing. The answer is the text of the block; of
    a block with boxes it is what `answer_in` reads in it.
    """
    text = response.strip().removeprefix("<think>")
    tagged = _TAGGED.fullmatch(text)
    if tagged is None or "<think>" in text or any(text.count(tag) != 1 for tag in ("</think>", "<answer>", "</answer>")):
        return None
    return answer_in(tagged[1], strict=True)


def boxed_answer(response: str) -> str | None:
    """The content of the last ``\\boxed{…}`` with balanced braces (or of ``\\boxed 5``, as MATH writes at times), or None.

    A box behind the thought goes before one inside it. A box inside a finished thought is the answer where none stands outside; a
    box inside a thought that was opened and not finished is no answer.
    """
    found = boxes(_where_boxes_count(response))
    return found[-1][2] if found else None


def _where_boxes_count(text: str) -> str:
    """The part of a text that is no thought; a finished thought, if only that has boxes."""
    thought, closed, rest = text.rpartition("</think>")
    said, opened, _unfinished = rest.partition("<think>")
    return thought if closed and not opened and not boxes(said) else said


def answer_of(response: str, style: str | None = None) -> str:
    """The answer that a response gives: in tags ("r1_zero"), in a box ("question_only"), or (None) whichever it has, else all of it."""
    answer = tagged_answer(response) if style != "question_only" else None
    answer = boxed_answer(response) if answer is None and style != "r1_zero" else answer
    return response.strip() if answer is None else answer


# ── a worked solution ─────────────────────────────────────────────────────────────────────────────────────────────────


def solution_answer(text: str) -> str | None:
    """The answer that the boxes of a worked solution give, or None where they give none.

    The last box is the answer, as in the MATH data set: different boxes before it are intermediate results. Where the last sentence
    has several different ones (``\\boxed{2} and \\boxed{3}``), they are a list: "2, 3". Equal boxes are one. A box that the text
    takes back (``not \\boxed{4}``; ``\\boxed{4}, no, wait, \\boxed{5}``; ``\\boxed{4} is wrong``) does not count. Thoughts are left
    out as in `boxed_answer`.
    """
    if "box" not in text:
        return None
    said = _where_boxes_count(text)
    kept: list[tuple[int, int, str]] = []
    for start, end, content in boxes(said)[-MOST_BOXES:]:
        if _DENIED_BEFORE.search(said, max(0, start - 60), start) or _DENIED_BEHIND.match(said, end):
            kept = [box for box in kept if not plainly_equal(box[2], content)]
        else:
            kept.append((start, end, content))
    if not kept:
        return None
    first = len(kept) - 1
    while first and _said_together(said[kept[first - 1][1] : kept[first][0]]):
        first -= 1
    answers: list[str] = []
    for _, _, content in kept[first:]:
        if not any(plainly_equal(known, content) for known in answers):
            answers.append(content)
    return ", ".join(answers)


def answer_in(text: str, *, strict: bool = False) -> str:
    """What `solution_answer` reads in a text with boxes, "" where the text takes them all back; a text without boxes as it is.

    A `strict` reading takes the text as it is, too, where its last box is only a part of what it says (2^{\\boxed{5}}).
    """
    boxed = solution_answer(text)
    if boxed is not None:
        return boxed if not strict or stands_alone(text) else text.strip()
    return "" if "box" in text and boxes(text) else text.strip()


_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|cannot|never|nor|instead\s+of|rather\s+than)|n't|n’t|\\neq?)(?:\s+(?:be|the|equal|to))*\s*"
    r"(?:[$\\(\[{\s]|[A-Za-z]\s*=)*$",
    re.IGNORECASE,
)
_WRONG = r"(?:wrong|incorrect|mistaken|invalid|extraneous|a\s+mistake|an\s+error|too\s+\w+)\b(?!\s+to\b)"
_RIGHT = r"(?:be\s+)?(?:right|correct|valid|the\s+answer|a\s+solution)\b"
_DENIED_BEHIND = re.compile(
    r"(?:[\s$)\]},.;:!*—–-]|\\[)\]])*(?:(?:but|no|wait|hmm|oops)\W+)*"
    rf"(?:(?:(?:which|that|this)\s+)?(?:(?:is|was)\s+{_WRONG}|(?:is|was|can|could)(?:\s*not|n't|n’t)\s+{_RIGHT})"
    rf"|that['’]s\s+(?:not\s+{_RIGHT}|{_WRONG}))",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(r"\bno(?=\s*[,:;.!—–-])|\bnot\s+(?:right|correct)|\b(?:I\s+mean|should\s+be)\b", re.IGNORECASE)
_FOLLOWS = re.compile(r"\\(?:Rightarrow|implies|therefore|Longrightarrow)|[⇒∴]|^\s*(?:=|\\approx|≈)\s*$")
_GOES_BACK, _LEADS_ON, _HEDGES = listed("taken back"), listed("consequences"), listed("alternatives")
_GOES_ON = re.compile(
    r"\W*(?:(?:or|and|also)\b|(?:part\s+)?\(?[a-z0-9]{1,3}\)[\s:.])|[\s.,;]*\n\s*(?:\d{1,2}|[a-h])\.\s",  # "or", "(b)", a line "2. "
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n\s*\n")


def _said_together(between: str) -> bool:
    """Whether two boxes with this text between them are answers of one sentence (or of the parts (a), (b) of one)."""
    text = MARKUP.sub(" ", between)
    words = words_of(text)
    if _FOLLOWS.search(text) or not _LEADS_ON.isdisjoint(words):
        return False
    if not re.search(r"\w", text):
        return True
    if len(text) > ONE_SENTENCE or _TAKEN_BACK.search(text) or not _GOES_BACK.isdisjoint(words):
        return False
    goes_on = _GOES_ON.match(text)
    return not _HEDGES.isdisjoint(words) or not _SENTENCE_END.search(text, goes_on.end() if goes_on else 0)


# ── a final behind marks ──────────────────────────────────────────────────────────────────────────────────────────────

_LABEL = re.compile(r"\W*(?:the\s+)?(?:final\s+)?(?:answer|result|solution)\W*", re.IGNORECASE)
_GROUPED = re.compile(r"(?<![\w,.])[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)")


def final_after_marks(text: str) -> tuple[str, str]:
    """(work, final) of "work #### final", as GSM8K writes its answers; the final is "" where there are no marks.

    The final is the first line with text behind the last marks, without a full stop. Lines behind it ("Thanks!") belong to neither.
    A comma goes only from between the digits of one number outside of brackets: 1,234,567 is 1234567, while (1,234) and 2, 2 stay.
    """
    text = text.strip().removesuffix("####")  # a heading may be closed: "#### 5 ####"
    work, marks, rest = text.rpartition("####")
    if not marks:
        return text.strip(), ""
    lines = [line.strip() for line in rest.split("\n") if line.strip()]
    if len(lines) > 1 and _LABEL.fullmatch(lines[0]):  # a heading "#### Answer"
        del lines[0]
    final = lines[0].removesuffix(".").rstrip() if lines else ""
    return work.rstrip("#").strip(), _GROUPED.sub(lambda number: _joined_digits(number, final), final)


def _joined_digits(number: re.Match[str], text: str) -> str:
    before = text[: number.start()]
    depth = sum(before.count(bracket) for bracket in "([{") - sum(before.count(bracket) for bracket in ")]}")
    return number[0] if depth > 0 else number[0].replace(",", "")
