"""The reward functions, and the verdicts behind them: the answer is taken out of a response, and compared with its reference."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence

from tutelage.grading.equality import Verdict, grade_all, plainly_equal
from tutelage.grading.serving.cache import VerdictCache
from tutelage.grading.taking.answers import boxed_answer, tagged_answer
from tutelage.grading.taking.references import GroundTruth, alternatives_of, reference_of

_STYLES: dict[str, tuple[Callable[[str], str | None], str]] = {
    "r1_zero": (tagged_answer, "no single <think>…</think> <answer>…</answer>"),
    "question_only": (boxed_answer, "no \\boxed{} outside of an unfinished <think>"),
    "answer": (str, ""),
}
"""Of each style, what takes the answer out of a response, and why there is none."""
_NO_REFERENCE = Verdict(None, "reference", "there is no reference answer to compare with")


def _uncounted(count: int) -> None:
    """Count nothing."""


def r1_zero_reward_fn(response: str, ground_truth: GroundTruth, fast: bool = False) -> dict[str, float]:
    """Grade a think/answer response.

    Args:
        response: the generated text; its opening ``<think>`` may stand at the end of the prompt instead.
        ground_truth: the reference answer, as `reference_of` reads it: text (also with a box, or behind ``####``), a number (int,
            float, Decimal, Fraction, NumPy's, PyTorch's), or a list, tuple or array of these, of which any is right. A missing value
            (None, NaN, an empty list) has no right answer.
        fast: only the layers that cost microseconds: the same text, the same rational number, the same words. What they do not call
            equal scores 0.0, so that no answer is accepted which is not accepted otherwise.

    Returns:
        ``format_reward`` 1.0 for exactly one think block, then exactly one answer block and nothing after it;
        ``answer_reward`` 1.0 if moreover the answer equals the reference; ``reward`` their product. An undecided grade scores
        0.0 here, as does a missing reference; `grade_response` tells them apart.

    Raises:
        ValueError: `ground_truth` is a text that says no answer, or of a type that no answer has; `response` is no text.
    """
    return _rewards(response, ground_truth, "r1_zero", fast)


def question_only_reward_fn(response: str, ground_truth: GroundTruth, fast: bool = False) -> dict[str, float]:
    """Grade a response by its last ``\\boxed{}``, for models that were not taught the tags; the rest as `r1_zero_reward_fn`."""
    return _rewards(response, ground_truth, "question_only", fast)


def reward_fn_response_vs_gt(response: str, ground_truth: GroundTruth) -> dict[str, float]:
    """The specification's name for the check of a worked solution: `r1_zero_reward_fn` of the assistant's full text.

    A row is kept if its ``answer_reward`` is at least 1.0.
    """
    return r1_zero_reward_fn(response, ground_truth)


def _rewards(response: str, ground_truth: GroundTruth, style: str, fast: bool) -> dict[str, float]:
    return rewards_of(grade_responses([(response, ground_truth)], style, grade_pairs=_plainly if fast else grade_all)[0])


def _plainly(
    pairs: Sequence[tuple[str, str]], known: Mapping[tuple[str, str], Verdict], on_graded: Callable[[int], None]
) -> list[Verdict]:
    """As `grade_all`, by the layers that cost microseconds alone."""
    return [Verdict(plainly_equal(*pair), "fast") for pair in pairs]


def grade_response(response: str, ground_truth: GroundTruth, style: str = "r1_zero") -> Verdict:
    """The full verdict on a response. Its layer is "format" when no answer could be taken out of it, "reference" where none is known."""
    return grade_responses([(response, ground_truth)], style)[0]


def grade_responses(
    pairs: Sequence[tuple[str, GroundTruth]],
    style: str = "r1_zero",
    cache: VerdictCache | None = None,
    on_graded: Callable[[int], None] = _uncounted,
    grade_pairs: Callable[..., list[Verdict]] = grade_all,
) -> list[Verdict]:
    """The verdicts on many (response, reference) pairs, on all cores.

    A reference is whatever `reference_of` reads. Of several answers any is right; the verdict is undecided if none is right and one
    is undecided, and where the reference is missing.

    Args:
        style: "r1_zero" (think and answer tags), "question_only" (the last box), or "answer" (the response is the answer).
        cache: verdicts known from earlier; new ones are added.
        on_graded: called with how many more are done.
        grade_pairs: what grades (reference, answer) pairs, as `grade_all` does.

    Raises:
        ValueError: a reference is a text that says no answer, or of a type that no answer has; a response is no text; there is no
            such style.
    """
    if style not in _STYLES:
        raise ValueError(f"there is no style {style!r}; there are {', '.join(_STYLES)}")
    take, missing = _STYLES[style]
    references = [_answers(reference) for _, reference in pairs]
    answers = [take(_text(response)) for response, _ in pairs]
    malformed = Verdict(False, "format", missing)
    verdicts = [malformed if answer is None else _NO_REFERENCE for answer in answers]
    left = [index for index, answer in enumerate(answers) if answer is not None and references[index]]
    on_graded(len(answers) - len(left))
    count = on_graded
    for turn in range(max(map(len, references), default=0)):  # the first answer of each reference, then the second where that is not met
        questions = [(references[index][turn], answers[index] or "") for index in left]
        known: Mapping[tuple[str, str], Verdict] = cache.find(questions) if cache is not None else {}
        found = grade_pairs(questions, known=known, on_graded=count)
        count = _uncounted
        if cache is not None:
            cache.keep({pair: verdict for pair, verdict in zip(questions, found, strict=True) if pair not in known})
        for index, verdict in zip(left, found, strict=True):
            if turn == 0 or verdict.equal or (verdict.equal is None and verdicts[index].equal is False):
                verdicts[index] = verdict
        left = [index for index in left if not verdicts[index].equal and turn + 1 < len(references[index])]
    return verdicts


def _answers(reference: GroundTruth) -> tuple[str, ...]:
    """The answers that a reference says; none where it is missing. Raises ValueError for a text that says none."""
    answers = alternatives_of(reference_of(reference))
    if not answers and isinstance(reference, str):
        raise ValueError(f"the reference answer is empty: {reprlib.repr(reference)} says no answer to compare with")
    return answers


def _text(response: str) -> str:
    if not isinstance(response, str):
        raise ValueError(f"the response is of type {type(response).__name__}: a response is text")
    return response


def rewards_of(verdict: Verdict) -> dict[str, float]:
    """What a reward function returns for a verdict."""
    right = 1.0 if verdict.equal else 0.0
    return {"reward": right, "format_reward": 0.0 if verdict.layer == "format" else 1.0, "answer_reward": right}
