"""Is this response right? Format first, then the answer, in layers from cheap to expensive; nothing is ever executed.

A grade is right, wrong or undecided (a limit was met). A filter counts undecided apart from wrong. Limits count work, so that a grade
does not depend on how busy the machine is. Importing this package costs little: the symbolic layers start a process on first need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tutelage.grading.cache import VerdictCache, grader_version
from tutelage.grading.equality import Verdict, grade, grade_all
from tutelage.grading.format import boxed_answer, boxes, tagged_answer
from tutelage.grading.pool import OUT_OF_TIME
from tutelage.grading.references import Reference, reference_of

__all__ = [
    "OUT_OF_TIME",
    "Reference",
    "Verdict",
    "VerdictCache",
    "answer_of",
    "boxed_answer",
    "boxes",
    "grade",
    "grade_all",
    "grade_response",
    "grade_responses",
    "grader_version",
    "question_only_reward_fn",
    "r1_zero_reward_fn",
    "reference_of",
    "rewards_of",
    "tagged_answer",
]


def r1_zero_reward_fn(response: str, ground_truth: str) -> dict[str, float]:
    """Grade a think/answer response.

    Args:
        response: the generated text; its opening ``<think>`` may stand at the end of the prompt instead.
        ground_truth: the reference answer.

    Returns:
        ``format_reward`` 1.0 for exactly one think block, then exactly one answer block and nothing after it;
        ``answer_reward`` 1.0 if moreover the answer equals the reference; ``reward`` their product. An undecided grade scores
        0.0 here; `grade_response` tells it apart.

    Raises:
        ValueError: `ground_truth` is empty.
    """
    return rewards_of(grade_response(response, ground_truth))


def question_only_reward_fn(response: str, ground_truth: str) -> dict[str, float]:
    """Grade a response by its last ``\\boxed{}``, for models that were not taught the tags; keys as `r1_zero_reward_fn`."""
    return rewards_of(grade_response(response, ground_truth, style="question_only"))


def grade_response(response: str, ground_truth: str, style: str = "r1_zero") -> Verdict:
    """The full verdict on a response: its layer is "format" when no answer could be taken out of it."""
    return grade_responses([(response, ground_truth)], style)[0]


def grade_responses(
    pairs: Sequence[tuple[str, str]],
    style: str = "r1_zero",
    cache: VerdictCache | None = None,
    on_graded: Callable[[int], None] = lambda count: None,
    grade_pairs: Callable[..., list[Verdict]] = grade_all,
) -> list[Verdict]:
    """The verdicts on many (response, reference) pairs, on all cores.

    Args:
        style: "r1_zero" (think and answer tags) or "question_only" (the last box).
        cache: verdicts known from earlier; new ones are added.
        on_graded: called with how many more are done.
        grade_pairs: what grades (reference, answer) pairs, as `grade_all` does.

    Raises:
        ValueError: a reference is empty.
    """
    take = tagged_answer if style == "r1_zero" else boxed_answer
    answers = [(reference, take(response)) for response, reference in pairs]
    if any(not reference.strip() for reference, _ in answers):
        raise ValueError("the reference answer is empty")
    questions = [(reference, answer) for reference, answer in answers if answer is not None]
    known = cache.find(questions) if cache is not None else {}
    on_graded(len(answers) - len(questions))
    found = dict(zip(questions, grade_pairs(questions, known=known, on_graded=on_graded), strict=True))
    if cache is not None:
        cache.keep({pair: verdict for pair, verdict in found.items() if pair not in known})
    missing = "no single <think>…</think> <answer>…</answer>" if style == "r1_zero" else "no \\boxed{}"
    malformed = Verdict(False, "format", missing)
    return [found[reference, answer] if answer is not None else malformed for reference, answer in answers]


def answer_of(response: str, style: str | None = None) -> str:
    """The answer that a response gives: in tags ("r1_zero"), in a box ("question_only"), or (None) whichever it has, else all of it."""
    answer = tagged_answer(response) if style != "question_only" else None
    answer = boxed_answer(response) if answer is None and style != "r1_zero" else answer
    return response.strip() if answer is None else answer


def rewards_of(verdict: Verdict) -> dict[str, float]:
    """What a reward function returns for a verdict."""
    right = 1.0 if verdict.equal else 0.0
    return {"reward": right, "format_reward": 0.0 if verdict.layer == "format" else 1.0, "answer_reward": right}
