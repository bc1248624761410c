"""What a worked solution says: its answer, and the response that a model learns from it."""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

from tutelage.grading import final_after_marks, solution_answer

LONG = 40
"""Characters of a text that is more than an answer."""


def think_answer(thought: str, answer: str) -> str:
    """The response form that the reward function expects."""
    return f"<think> {thought} </think> <answer> {answer} </answer>"


@functools.lru_cache(maxsize=8)  # of one row, several ask
def boxed(work: str) -> str:
    """The answer that a work's boxes give; "" where they give none."""
    return (solution_answer(work) or "") if "boxed" in work or "fbox" in work else ""


class Split(NamedTuple):
    """A text in GSM8K's form: its work, the answer as it is written, and the answer for comparison (``1,072`` is ``1072``)."""

    work: str
    written: str
    final: str


@functools.lru_cache(maxsize=8)
def split_final(text: str) -> Split | None:
    """The parts of a text in GSM8K's form, whose answer stands behind ``####``; None for any other text.

    The final answer ends with its line. A heading of Markdown is no such mark: it occurs several times, or much stands behind it.
    """
    if "####" not in text:
        return None
    work, final = final_after_marks(text)
    behind = [line.strip() for line in text.strip().removesuffix("####").rpartition("####")[2].split("\n") if line.strip()]
    if not final or len(behind) > (1 if "####" in work else 3):
        return None
    written = next((line for line in behind if line.removesuffix(".").replace(",", "") == final.replace(",", "")), final)
    return Split(re.sub(r"<<[^<>]*>>", "", work).strip(), written.removesuffix("."), final)


def answer_in(work: str) -> str:
    """The answer that a work gives in a box or behind ``####``; "" where it gives none so."""
    split = None if boxed(work) else split_final(work)
    return split.final if split else boxed(work)


def has_tags(text: str) -> bool:
    return "</think>" in text or "</answer>" in text or "<think>" in text


def is_marked(text: str) -> bool:
    """Whether a text shows that it is a worked solution: tags, a box, or GSM8K's mark."""
    return has_tags(text) or bool(boxed(text)) or split_final(text) is not None


def is_bare(value: Any) -> bool:
    """Whether a value is an answer without its work: a number, or a few words of text without any mark."""
    if not isinstance(value, str):
        return isinstance(value, int | float)
    text = value.strip()
    return len(text) < LONG and len(text.split()) <= 3 and not is_marked(text)


def response_of(work: str, answer: str, thought: bool, reward: str) -> str:
    """The response that is learnt from a work.

    Args:
        answer: the row's reference answer; it is written into the response only behind a thought, which has none of its own.
        thought: whether the column's name says that the work is a thought alone.
        reward: the grader, as `eval.reward`: its form of an answer is the one that is written.
    """
    if has_tags(work):
        return work
    tagged = reward != "question_only"
    box = boxed(work)
    if box:
        return think_answer(work.strip(), box) if tagged else work
    split = split_final(work)
    if split:
        return think_answer(split.work, split.written) if tagged else f"{split.work}\n\n\\boxed{{{split.written}}}"
    if thought and answer:
        stripped = work.strip()
        return think_answer(stripped, answer) if tagged else f"<think>\n{stripped}\n</think>\n\n\\boxed{{{answer}}}"
    return work


def is_work(text: str) -> bool:
    """Whether the text of an answer column is a worked solution: it has tags, GSM8K's mark, or a box in a sentence."""
    if has_tags(text):
        return True
    split = split_final(text)
    if split:
        return bool(split.work)
    return bool(boxed(text)) and len(text.split()) - len(boxed(text).split()) >= 2
