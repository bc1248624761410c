from __future__ import annotations

import numpy as np
import pytest

from tutelage.stats import continued, gain_in_words

TRUTHS = {
    "log-linear": lambda rows: 0.1 + 0.05 * np.log2(rows / 64),
    "saturating": lambda rows: 0.6 - 0.4 * (rows / 64) ** -0.5,
    "flat": lambda rows: 0.4,
    "falling": lambda rows: 0.5 - 0.03 * np.log2(rows / 64),
}


def simulated(truth, sizes, seeds: int, random, questions: int = 300):
    """Scores by size: questions that share what makes them hard, and seeds whose accuracies spread by 1.5 points."""
    common = random.random((questions, 1))
    scores = {}
    for size in sizes:
        accuracy = truth(size) + 0.015 * random.normal(size=(1, seeds))
        hard = np.where(random.random((questions, seeds)) < 0.6, common, random.random((questions, seeds)))
        scores[size] = (hard < accuracy).astype(float)
    return scores


@pytest.mark.parametrize("shape", TRUTHS)
@pytest.mark.parametrize(("sizes", "seeds"), [((64, 128, 256), 3), ((64, 128, 256, 512, 1024), 1)])
def test_the_band_holds_what_twice_the_rows_bring(shape, sizes, seeds):
    """Of what is told, 95 of 100 bands hold the true gain, or more."""
    random, truth = np.random.default_rng(4), TRUTHS[shape]
    found = [continued(simulated(truth, sizes, seeds, random), resamples=150) for _ in range(40)]
    told = [each for each in found if not each.why_not]
    gain = truth(2 * sizes[-1]) - truth(sizes[-1])
    assert len(told) > 35
    # 300 curves of the first case gave 96 %; fewer than 34 of 40 would be a chance of 1 in 1,000
    assert np.mean([each.gain_low <= gain <= each.gain_high for each in told]) >= 0.85


@pytest.mark.parametrize(("shape", "exponents"), [("log-linear", {0.0}), ("saturating", {0.25, 0.5, 1.0})])
def test_the_shape_that_predicts_held_out_sizes_is_chosen(shape, exponents):
    sizes = [64 * 2**power for power in range(7)]
    exact = {size: np.full((50, 1), TRUTHS[shape](size)) + np.linspace(-0.05, 0.05, 50)[:, None] for size in sizes}
    found = continued(exact)
    assert found.exponent in exponents and not found.why_not and found.sizes == 7
    assert found.values[-1] == pytest.approx(TRUTHS[shape](2 * sizes[-1]), abs=0.01)
    assert found.rows == (4096, 4871, 5793, 6889, 8192) and found.gain == pytest.approx(found.values[-1] - found.values[0])


def test_what_the_curve_says_is_a_gain_with_its_interval():
    said = gain_in_words(continued(simulated(TRUTHS["log-linear"], (64, 128, 256, 512), 3, np.random.default_rng(1), 1000)))
    assert said.startswith("twice the rows (1024): +") and " points [" in said and "curve through 4 sizes" in said


@pytest.mark.parametrize(
    ("accuracies", "seeds", "why"),
    [
        ({64: 0.2, 128: 0.3}, 3, "2 sizes; a curve needs 3"),
        ({64: 0.2}, 3, "1 size; a curve needs 3"),
        ({64: 0.2, 128: 0.5, 256: 0.5, 512: 0.2}, 3, "no curve of either shape"),
        ({64: 0.2, 128: 0.6, 256: 0.5, 512: 0.2}, 1, "points wide"),
        ({64: 0.0, 128: 0.0, 256: 0.0}, 2, "the same score"),
        ({64: 1.0, 128: 1.0, 256: 1.0}, 2, "the same score"),
    ],
)
def test_what_cannot_be_told_says_why(accuracies, seeds, why):
    random = np.random.default_rng(0)
    scores = {size: (random.random((200, seeds)) < accuracy).astype(float) for size, accuracy in accuracies.items()}
    found = continued(scores)
    assert why in found.why_not and found.rows == ()
    assert gain_in_words(found) == f"what twice the rows would bring cannot be told: {found.why_not}"


def test_few_questions_make_a_band_that_says_nothing():
    assert "points wide" in continued(simulated(TRUTHS["log-linear"], (64, 128, 256), 1, np.random.default_rng(0), 12)).why_not


def test_a_curve_stays_between_none_and_all_and_is_the_same_each_time():
    steep = simulated(lambda rows: min(0.99, 0.3 * np.log2(rows / 32)), (64, 128, 256), 2, np.random.default_rng(0))
    found = continued(steep)
    assert found == continued(steep)
    assert all(0 <= value <= 1 for ends in (found.values, found.low, found.high) for value in ends)


def test_sizes_that_answered_other_questions_are_refused():
    with pytest.raises(ValueError, match="the same questions"):
        continued({64: [[1.0]] * 5, 128: [[1.0]] * 5, 256: [[1.0]] * 6})
