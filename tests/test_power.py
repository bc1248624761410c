from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from tutelage.stats import detectable_difference, power_of, questions_for


@pytest.mark.parametrize(("questions", "samples", "within"), [(30, 64, 0.1), (100, 4, 0.2), (1000, 1, 0.05), (12, 16, 0.25)])
def test_the_power_of_a_paired_difference_is_statsmodels(questions, samples, within):
    """Of a difference of two models of accuracy 0.5, its variance by Miller's formula; theirs is by the noncentral t distribution."""
    power = pytest.importorskip("statsmodels.stats.power")
    variance = 2 * (0.25 - within) * (1 - 0.3) + 2 * within / samples
    for deviations in (0.5, 2.0, 3.0, 4.0):
        difference = deviations * (variance / questions) ** 0.5
        theirs = power.TTestPower().power(difference / variance**0.5, questions, 0.025, alternative="larger")
        assert power_of(difference, questions, samples, 0.5, within, correlation=0.3) == pytest.approx(
            theirs, abs=0.6 / questions
        )


def test_the_power_of_unpaired_accuracies_is_statsmodels():
    power = pytest.importorskip("statsmodels.stats.power")
    for questions, difference in ((50, 0.2), (400, 0.1), (2000, 0.04)):
        theirs = power.TTestIndPower().power(difference / 0.5, questions, 0.05)
        assert power_of(difference, questions, paired=False) == pytest.approx(theirs, abs=0.006)
        assert questions_for(difference, paired=False) == pytest.approx(
            power.TTestIndPower().solve_power(difference / 0.5, None, 0.05, 0.8), abs=1.5
        )


def test_what_can_be_told_is_told_that_often_in_simulations():
    """Two models whose chances to solve a question are uniform and the same for half of the questions: they correlate by 0.5."""
    random, shape, samples = np.random.default_rng(2), (4000, 80), 4
    difference = detectable_difference(shape[1], samples, within=1 / 6, correlation=0.5)
    first, other = random.random((2, *shape))
    second = np.where(random.random(shape) < 0.5, first, other)
    worse, better = (
        random.binomial(samples, (1 - difference) * chances + end) / samples
        for chances, end in ((first, 0), (second, difference))
    )
    tested = scipy.stats.ttest_rel(better, worse, axis=1)
    assert np.mean((tested.pvalue < 0.05) & (tested.statistic > 0)) == pytest.approx(0.8, abs=0.05)


def test_power_and_the_smallest_difference_and_questions_agree():
    for questions, samples, accuracy in ((30, 64, 0.5), (500, 4, 0.1), (5000, 1, 0.97)):
        smallest = detectable_difference(questions, samples, accuracy)
        assert power_of(smallest, questions, samples, accuracy) == pytest.approx(0.8)
        assert questions_for(smallest, samples, accuracy) == pytest.approx(questions, abs=1)


def test_more_questions_samples_and_pairs_tell_more():
    assert detectable_difference(100) > detectable_difference(400) > detectable_difference(400, 16)
    assert detectable_difference(400, 16) < detectable_difference(400, 16, paired=False)
    assert detectable_difference(400, 10**6) > 0.8 * detectable_difference(400, 16)  # samples do not stand for questions
    assert detectable_difference(200, accuracy=0.0) < detectable_difference(200, accuracy=0.1) < detectable_difference(200)
    assert detectable_difference(200, accuracy=0.2) == pytest.approx(detectable_difference(200, accuracy=0.8))
    assert detectable_difference(2, power=0.99) == 1.0  # nothing is told by two questions


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"questions": 1}, "two are needed"),
        ({"questions": 9, "samples": 0}, "0 samples"),
        ({"questions": 9, "accuracy": 50}, "between 0 and 1, not 50"),
        ({"questions": 9, "within": 0.3}, "here 0.25, not 0.3"),
        ({"questions": 9, "confidence": 95}, "not 95"),
        ({"questions": 9, "power": 1.0}, "not 1.0"),
        ({"questions": 9, "correlation": 1.0}, "below 1, not 1.0"),
    ],
)
def test_what_cannot_be_planned_is_refused(asked, said):
    with pytest.raises(ValueError, match=said):
        detectable_difference(**asked)
