"""What an evaluation can tell, reckoned before it is made (Miller 2024, arXiv 2411.00640, "Adding Error Bars to Evals", section 5).

The model. Questions are drawn at random from all questions of their kind. A model solves a question with a chance of its own. The
variance of one answer, p(1 − p), has two parts: the variance of these chances *between* questions, and the mean variance of answers
*within* a question, which several samples of a question average out:

    variance of a model's accuracy   =  (between + within / samples) / questions
    variance of a paired difference  =  2 (between · (1 − correlation) + within / samples) / questions

What is assumed where nothing is measured:
- Half of p(1 − p) lies within questions, as where the chances have a beta distribution whose two parameters sum to one: most
  questions are nearly always solved, or nearly never. A measured variance is better: `within`.
- The chances of two models correlate by 0.5 over the questions; Miller saw 0.3 to 0.7. Two models that were trained from the same
  one correlate more, so smaller differences of these can be told.
- `accuracy` is that of the model at hand. The other model lies on the side of one half, and p is the mean of both.
- The difference is tested by Student's distribution over questions, on both sides. Training seeds are another source of variance,
  which this model leaves out: it speaks of two models, not of two ways to train.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from tutelage.stats.quantiles import root, student_quantile

CORRELATION = 0.5
"""The correlation, over questions, of two models' chances to solve them, where nothing is measured."""
SHARE_WITHIN = 0.5
"""The share of p(1 − p) that lies within questions, where nothing is measured."""
MOST_QUESTIONS = 10**9


def power_of(
    difference: float,
    questions: int,
    samples: int = 1,
    accuracy: float = 0.5,
    within: float | None = None,
    confidence: float = 0.95,
    paired: bool = True,
    correlation: float = CORRELATION,
) -> float:
    """The chance that a true difference of two models' accuracies is told: found, with its sign.

    Args:
        difference: of the two accuracies, as a share, above zero.
        questions: as each model is asked; two at least.
        samples: responses to each question.
        accuracy: of the model at hand, as a share.
        within: the mean variance of answers within a question; None: half of p(1 − p).
        confidence: one minus the chance that a difference is told where there is none.
        paired: whether both models are asked the same questions.
        correlation: over questions, of the two models' chances to solve them; for pairs.

    Raises:
        ValueError: a number is out of its range.
    """
    _check(questions, samples, accuracy, within, confidence, correlation)
    if not 0 < difference <= 1:
        raise ValueError(f"a difference of accuracies is above 0 and at most 1, not {difference}")
    spread = math.sqrt(_variance_of_one(difference, samples, accuracy, within, correlation if paired else 0.0) / questions)
    critical = student_quantile((1 + confidence) / 2, questions - 1 if paired else 2 * (questions - 1))
    return NormalDist().cdf(difference / spread - critical)


def detectable_difference(
    questions: int,
    samples: int = 1,
    accuracy: float = 0.5,
    within: float | None = None,
    confidence: float = 0.95,
    power: float = 0.8,
    paired: bool = True,
    correlation: float = CORRELATION,
) -> float:
    """The smallest difference of two models' accuracies that is told with this power; 1.0 where no difference is.

    Args:
        power: the chance that a difference of this size is told.
        questions, samples, accuracy, within, confidence, paired, correlation: as `power_of`.
    """
    _check_power(power)

    def lacks(difference: float) -> float:
        return power_of(difference, questions, samples, accuracy, within, confidence, paired, correlation) - power

    return root(lacks, 1e-9, 1.0) if lacks(1.0) > 0 else 1.0


def questions_for(
    difference: float,
    samples: int = 1,
    accuracy: float = 0.5,
    within: float | None = None,
    confidence: float = 0.95,
    power: float = 0.8,
    paired: bool = True,
    correlation: float = CORRELATION,
) -> int:
    """The fewest questions with which a difference is told with this power.

    Args:
        difference, samples, accuracy, within, confidence, power, paired, correlation: as `detectable_difference`.
    """
    _check_power(power)

    def tells(questions: int) -> bool:
        return power_of(difference, questions, samples, accuracy, within, confidence, paired, correlation) >= power

    most = 2
    while not tells(most):
        most *= 2
        if most > MOST_QUESTIONS:
            raise ValueError(f"a difference of {difference} needs more than {MOST_QUESTIONS} questions")
    least = max(2, most // 2)
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if tells(middle) else (middle + 1, most)
    return least


def _variance_of_one(difference: float, samples: int, accuracy: float, within: float | None, correlation: float) -> float:
    """The variance of the difference of two models' accuracies, times the questions. A correlation of zero: not the same questions."""
    towards_half = difference / 2 if accuracy <= 0.5 else -difference / 2
    middle = accuracy + math.copysign(min(abs(towards_half), abs(0.5 - accuracy)), towards_half)
    total = middle * (1 - middle)
    of_one = accuracy * (1 - accuracy)
    share_within = SHARE_WITHIN if within is None or of_one == 0 else within / of_one
    return 2 * total * ((1 - share_within) * (1 - correlation) + share_within / samples)


def _check(questions: int, samples: int, accuracy: float, within: float | None, confidence: float, correlation: float) -> None:
    if questions < 2:
        raise ValueError(f"{questions} questions: two are needed at least")
    if samples < 1:
        raise ValueError(f"{samples} samples of a question: one is needed at least")
    if not 0 <= accuracy <= 1:
        raise ValueError(f"an accuracy is between 0 and 1, not {accuracy}")
    if within is not None and not 0 <= within <= accuracy * (1 - accuracy) + 1e-9:
        most = accuracy * (1 - accuracy)
        raise ValueError(f"the variance within questions is between 0 and p(1 − p), here {most:.4g}, not {within}")
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence is between 0 and 1, not {confidence}")
    if not 0 <= correlation < 1:
        raise ValueError(f"a correlation of two models is from 0 to below 1, not {correlation}")


def _check_power(power: float) -> None:
    if not 0 < power < 1:
        raise ValueError(f"a power is between 0 and 1, not {power}")
