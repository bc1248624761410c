"""Is this response right? Format first, then the answer, in layers from cheap to expensive; nothing is ever executed.

A grade is right, wrong or undecided (a limit was met). A filter counts undecided apart from wrong. Limits count work, so that a grade
does not depend on how busy the machine is. Importing this package costs little: the symbolic layers start a process on first need.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tutelage.grading.answers import answer_of, boxed_answer, final_after_marks, solution_answer, tagged_answer
from tutelage.grading.cache import VerdictCache, grader_version
from tutelage.grading.equality import Verdict, grade, grade_all
from tutelage.grading.format import boxes
from tutelage.grading.pool import OUT_OF_TIME
from tutelage.grading.references import Reference, alternatives_of, reference_of, reference_text

__all__ = [
    "OUT_OF_TIME",
    "Reference",
    "Verdict",
    "VerdictCache",
    "answer_of",
    "boxed_answer",
    "boxes",
    "final_after_marks",
    "grade",
    "grade_all",
    "grade_response",
    "grade_responses",
    "grader_version",
    "question_only_reward_fn",
    "r1_zero_reward_fn",
    "reference_of",
    "reference_text",
    "rewards_of",
    "solution_answer",
    "tagged_answer",
]


def r1_zero_reward_fn(response: str, ground_truth: Any) -> dict[str, float]:
    """Grade a think/answer response.

    Args:
        response: the generated text; its opening ``<think>`` may stand at the end of the prompt instead.
        ground_truth: the reference answer: text, a number, or a list of these, of which any is right (see `reference_of`).

    Returns:
        ``format_reward`` 1.0 for exactly one think block, then exactly one answer block and nothing after it;
        ``answer_reward`` 1.0 if moreover the answer equals the reference; ``reward`` their product. An undecided grade scores
        0.0 here; `grade_response` tells it apart.

    Raises:
        ValueError: `ground_truth` says no answer, or is of a type that no answer has.
    """
    return rewards_of(grade_response(response, ground_truth))


def question_only_reward_fn(response: str, ground_truth: Any) -> dict[str, float]:
    """Grade a response by its last ``\\boxed{}``, for models that were not taught the tags; the rest as `r1_zero_reward_fn`."""
    return rewards_of(grade_response(response, ground_truth, style="question_only"))


def grade_response(response: str, ground_truth: Any, style: str = "r1_zero") -> Verdict:
    """The full verdict on a response: its layer is "format" when no answer could be taken out of it."""
    return grade_responses([(response, ground_truth)], style)[0]


def grade_responses(
    pairs: Sequence[tuple[str, Any]],
    style: str = "r1_zero",
    cache: VerdictCache | None = None,
    on_graded: Callable[[int], None] = lambda count: None,
    grade_pairs: Callable[..., list[Verdict]] = grade_all,
) -> list[Verdict]:
    """The verdicts on many (response, reference) pairs, on all cores.

    A reference is whatever `reference_of` reads. Of several answers any is right; the verdict is undecided if none is right and one
    is undecided.

    Args:
        style: "r1_zero" (think and answer tags) or "question_only" (the last box).
        cache: verdicts known from earlier; new ones are added.
        on_graded: called with how many more are done.
        grade_pairs: what grades (reference, answer) pairs, as `grade_all` does.

    Raises:
        ValueError: a reference says no answer.
    """
    take = tagged_answer if style == "r1_zero" else boxed_answer
    references = [_required(reference) for _, reference in pairs]
    answers = [take(response) for response, _ in pairs]
    missing = "no single <think>…</think> <answer>…</answer>" if style == "r1_zero" else "no \\boxed{} outside of an unfinished <think>"
    verdicts: dict[int, Verdict] = {}
    left = [index for index, answer in enumerate(answers) if answer is not None]
    on_graded(len(answers) - len(left))
    for turn in range(max(map(len, references), default=0)):  # the first answer of each reference, then the second where that is not met
        questions = [(references[index][turn], answers[index] or "") for index in left]
        found = _graded(questions, cache, on_graded if turn == 0 else lambda count: None, grade_pairs)
        for index, verdict in zip(left, found, strict=True):
            if turn == 0 or verdict.equal or (verdict.equal is None and verdicts[index].equal is False):
                verdicts[index] = verdict
        left = [index for index in left if not verdicts[index].equal and turn + 1 < len(references[index])]
    malformed = Verdict(False, "format", missing)
    return [verdicts.get(index, malformed) for index in range(len(pairs))]


def _required(reference: Any) -> tuple[str, ...]:
    """Its answers. Raises ValueError where it says none."""
    answers = alternatives_of(reference_of(reference))
    if not answers:
        raise ValueError(f"the reference answer is empty: {reprlib.repr(reference)} says no answer to compare with")
    return answers


def _graded(
    questions: Sequence[tuple[str, str]],
    cache: VerdictCache | None,
    on_graded: Callable[[int], None],
    grade_pairs: Callable[..., list[Verdict]],
) -> list[Verdict]:
    """`grade_pairs`, with what the cache knows."""
    known: Mapping[tuple[str, str], Verdict] = cache.find(questions) if cache is not None else {}
    found = grade_pairs(questions, known=known, on_graded=on_graded)
    if cache is not None:
        cache.keep({pair: verdict for pair, verdict in zip(questions, found, strict=True) if pair not in known})
    return found


def rewards_of(verdict: Verdict) -> dict[str, float]:
    """What a reward function returns for a verdict."""
    right = 1.0 if verdict.equal else 0.0
    return {"reward": right, "format_reward": 0.0 if verdict.layer == "format" else 1.0, "answer_reward": right}
