"""What an evaluation can tell: the least difference of two models that its questions show, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.stats import detectable_difference

FEW_QUESTIONS = 100
"""With fewer questions, a 95 % interval may hold the truth less often than in 95 of 100 evaluations."""


def least_difference(questions: int, samples: int, records: Sequence[Mapping[str, Any]] = ()) -> float | None:
    """The smallest difference between two models, asked the same questions, that is found in 80 of 100 evaluations, as a share.

    Args:
        samples: responses to each question.
        records: graded responses, all samples of a question one after the other. They say accuracy, and how much the responses to a
            question vary. Without records, the accuracy is one half, where differences are hardest to find.

    Returns:
        None: one question tells no difference.
    """
    if questions < 2:
        return None
    if not records:
        return detectable_difference(questions, samples)
    shares = [
        sum(record["answer_reward"] > 0 for record in records[start : start + samples]) / samples
        for start in range(0, len(records), samples)
    ]
    accuracy = sum(shares) / len(shares)
    within = None
    if samples > 1:  # without bias; more than all variance there is cannot lie within questions
        mean = sum(share * (1 - share) for share in shares) / len(shares) * samples / (samples - 1)
        within = min(mean, accuracy * (1 - accuracy))
    return detectable_difference(questions, samples, accuracy, within)


def in_words(questions: int, samples: int, least: float | None) -> str:
    """ "30 questions, 16 responses each: differences under 14 points cannot be told"."""
    asked = f"{questions} question{'s' if questions != 1 else ''}" + (f", {samples} responses each" if samples > 1 else "")
    none = points(least) == "none"
    return f"{asked}: " + ("no difference can be told" if none else f"differences under {points(least)} cannot be told")


def points(share: float | None) -> str:
    """A difference in points: "14 points", "4.7 points"; "none" where no difference can be told."""
    if share is None or share >= 1:
        return "none"
    return f"{100 * share:.0f} points" if share >= 0.1 else f"{100 * share:.1f} points"
