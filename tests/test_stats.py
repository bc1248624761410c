from __future__ import annotations

import itertools
import random

import pytest
from scipy.stats import binomtest

from tutelage.stats import clustered_interval, majority_at_k, mean, pass_at_k, powers_of_two, problems_for_width, wilson_interval


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


@pytest.mark.parametrize("width", [0.5, 0.25, 0.1, 0.02])
def test_as_many_problems_as_the_interval_asked_for_needs(width):
    count = problems_for_width(width)
    widest = max(high - low for low, high in (wilson_interval(right, count) for right in (count // 2, (count + 1) // 2)))
    assert widest <= width
    if count > 3 and count % 2 == 1:  # one fewer splits in halves, where the interval is widest
        low, high = wilson_interval((count - 1) // 2, count - 1)
        assert high - low > width


def test_an_interval_over_sampled_problems_lies_between_those_of_problems_and_of_samples():
    """Perfectly correlated samples say no more than one each; independent ones as much as so many problems."""
    alike = clustered_interval([4] * 10 + [0] * 10, 4)
    assert alike == pytest.approx(wilson_interval(10, 20), abs=0.02)
    spread = clustered_interval([2] * 20, 4)
    assert spread == pytest.approx(wilson_interval(40, 80))
    assert clustered_interval([1, 0, 1, 1], 1) == wilson_interval(3, 4)
    assert clustered_interval([4, 4], 4) == wilson_interval(2, 2) and clustered_interval([], 4) == (0.0, 1.0)


def test_the_interval_over_sampled_problems_covers_the_truth():
    """Problems of different difficulty, four samples each: about 95 of 100 intervals hold the mean difficulty."""
    r = random.Random(0)
    held = 0
    for _ in range(1000):
        hardness = [r.betavariate(0.5, 0.5) for _ in range(40)]
        correct = [sum(r.random() < p for _ in range(4)) for p in hardness]
        low, high = clustered_interval(correct, 4)
        held += low <= 0.5 <= high
    assert 925 <= held <= 985


def test_pass_at_k_is_the_share_of_subsets_with_a_correct_response():
    for samples, right, k in itertools.product([4, 5], range(4), [1, 2, 3]):
        subsets = list(itertools.combinations(range(samples), k))
        assert pass_at_k(right, samples, k) == pytest.approx(sum(min(s) < right for s in subsets) / len(subsets))


def test_a_majority_is_asked_of_disjoint_groups_and_a_tie_is_a_lot():
    votes = [0, 0, 1, 1, 1, None, None, None, 2]
    assert majority_at_k(votes, 0, 1) == 2 / 9
    assert majority_at_k(votes, 0, 2) == (1 + 0 + 0 + 0) / 4
    assert majority_at_k(votes[:4], 0, 4) == 1 / 2
    assert majority_at_k([None, None], 0, 2) == 0.0


def test_powers_of_two_end_with_the_number_itself():
    assert [powers_of_two(n) for n in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]
