"""Is this response right? Format first, then the answer, in layers from cheap to expensive; nothing is ever executed.

A grade is right, wrong or undecided (a time or memory limit was met); undecided is never the same as wrong in a filter.
Importing this package costs nothing heavy: the symbolic layer starts its own process on first need.
"""

from __future__ import annotations

from tutelage.grading.equality import VERSION, Verdict, grade
from tutelage.grading.format import boxed_answer, tagged_answer

__all__ = ["VERSION", "Verdict", "grade", "grade_response", "question_only_reward_fn", "r1_zero_reward_fn"]


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
    return _rewards(grade_response(response, ground_truth))


def question_only_reward_fn(response: str, ground_truth: str) -> dict[str, float]:
    """Grade a response by its last ``\\boxed{}``, for models that were not taught the tags; keys as `r1_zero_reward_fn`."""
    return _rewards(grade_response(response, ground_truth, style="question_only"))


def grade_response(response: str, ground_truth: str, style: str = "r1_zero") -> Verdict:
    """The full verdict on a response: its layer is "format" when no answer could be taken out of it."""
    answer = tagged_answer(response) if style == "r1_zero" else boxed_answer(response)
    if answer is None:
        what = "no single <think>…</think> <answer>…</answer>" if style == "r1_zero" else "no \\boxed{}"
        return Verdict(False, "format", what)
    return grade(ground_truth, answer)


def _rewards(verdict: Verdict) -> dict[str, float]:
    right = 1.0 if verdict.equal else 0.0
    return {"reward": right, "format_reward": 0.0 if verdict.layer == "format" else 1.0, "answer_reward": right}
