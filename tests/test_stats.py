from __future__ import annotations

import pytest
from scipy.stats import binomtest

from tutelage.stats import mean, wilson_interval


@pytest.mark.parametrize(("successes", "trials"), [(0, 64), (1, 64), (32, 64), (63, 64), (64, 64), (1, 1), (481, 1319)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_wilson_interval_equals_scipys(successes, trials, confidence):
    theirs = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert wilson_interval(successes, trials, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_nothing_tried_says_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert mean([]) is None and mean([1.0, 2.0]) == 1.5


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="5 successes in 4 trials"):
        wilson_interval(5, 4)
