"""Which right responses of a problem become rows: those that differ, and of these as many as are wanted."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from tutelage.data import normalised
from tutelage.evaluation.sample.wanted import Wanted

STEPS = 3
"""So many of the last steps before the answer make two solutions the same."""
_ANSWER = re.compile(r"<answer>|\\boxed\b|\\fbox\b")
_TAG = re.compile(r"</?\w+>")
_STEP_END = re.compile(r"\s*\n\s*|(?<=[.!?;])\s+")


def final_steps(response: str) -> str:
    """The last steps of a solution before its answer, normalised: what makes two solutions the same.

    A step is a line or a sentence. The answer begins at the last ``<answer>`` or box; the step in which a box stands is no part
    of the steps unless it is the only one, and tags such as ``</think>`` are none. What does not count, as for `normalised`: case,
    spaces, marks at the ends of words, how a formula is set. Of a response that is an answer alone, nothing is left.
    """
    answers = list(_ANSWER.finditer(response))
    work = response[: answers[-1].start()] if answers else response
    steps = [normalised(step) for step in _STEP_END.split(_TAG.sub("\n", work))]
    if answers and answers[-1][0] != "<answer>" and any(steps[:-1]):
        steps = steps[:-1]
    return "\n".join([step for step in steps if step][-STEPS:])


def duplicates(responses: Sequence[dict[str, Any]]) -> dict[int, int]:
    """Right responses of a problem that say what a shorter (or, of equal length, earlier) one says: their indices → that one's.

    Two say the same if their texts are equal but for spaces, or their final steps are.
    """
    first: dict[tuple[str, str], int] = {}
    same: dict[int, int] = {}
    right = [index for index, each in enumerate(responses) if each["fate"] == "right"]
    for index in sorted(right, key=lambda index: (len(responses[index]["token_ids"]), index)):
        text = responses[index]["response"]
        keys = [("text", " ".join(text.split())), ("steps", final_steps(text))]
        known = next((first[key] for key in keys if key in first), None)
        if known is not None:
            same[index] = known
        for key in keys:
            first.setdefault(key, index if known is None else known)
    return same


def chosen(responses: Sequence[dict[str, Any]], problem: int, wanted: Wanted) -> list[int]:
    """The indices of a problem's responses that become rows, in their order.

    Args:
        responses: with their final fates: a duplicate is no longer right.
        problem: its index, from which a random choice is drawn.
    """
    if wanted.keep == "all":
        return [index for index, each in enumerate(responses) if each["trainable"]]
    right = [index for index, each in enumerate(responses) if each["fate"] == "right"]
    count = wanted.allowance(sum(each["fate"] in ("right", "duplicate") for each in responses))
    if len(right) <= count:
        return right
    by_length = sorted(right, key=lambda index: (len(responses[index]["token_ids"]), index))
    if wanted.choose == "random":
        return sorted(random.Random(f"{wanted.seed}-{problem}-choice").sample(right, count))
    if wanted.choose == "shortest":
        return sorted(by_length[:count])
    return sorted(by_length[at] for at in spread(len(by_length), count))


def spread(size: int, count: int) -> list[int]:
    """`count` indices of `size`, the ends among them and the others evenly between; of a single one, the middle."""
    return [size // 2] if count == 1 else [(index * (size - 1) + (count - 1) // 2) // (count - 1) for index in range(count)]
