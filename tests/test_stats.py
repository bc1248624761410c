from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import scipy.stats
from scipy.stats import binomtest

from tutelage.stats import (
    clustered_interval,
    compare,
    crossed_interval,
    discordant_interval,
    exact_interval,
    holm,
    in_words,
    judged_together,
    majority_at_k,
    mcnemar_exact,
    mean,
    paired_interval,
    pass_at_k,
    powers_of_two,
    problems_for_width,
    student_quantile,
    wilson_interval,
)
from tutelage.stats.quantiles import student_beyond


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


def test_an_interval_of_sampled_problems_lies_between_problems_and_samples():
    """Perfectly correlated samples say no more than one each; independent ones as much as so many problems."""
    alike = clustered_interval([4] * 10 + [0] * 10, 4)
    assert alike == pytest.approx(wilson_interval(10, 20), abs=0.02)
    spread = clustered_interval([2] * 20, 4)
    assert spread == pytest.approx(wilson_interval(40, 80), abs=0.01)
    assert clustered_interval([1, 0, 1, 1], 1) == wilson_interval(3, 4)
    assert clustered_interval([4, 4], 4) == wilson_interval(2, 2) and clustered_interval([], 4) == (0.0, 1.0)


@pytest.mark.parametrize("samples", [1, 4, 16])
@pytest.mark.parametrize(("accuracy", "spread"), [(0.1, 1.0), (0.5, 0.5), (0.9, 2.0)])
def test_the_interval_over_questions_covers_the_truth(quick, samples, accuracy, spread):
    """500 questions of differing difficulty: 95 of 100 intervals hold the mean difficulty (bench/coverage.py has 10,000 draws)."""
    random = np.random.default_rng(samples)
    chances = random.beta(accuracy * spread, (1 - accuracy) * spread, (2000, 500))
    intervals = [clustered_interval(counts, samples) for counts in random.binomial(samples, chances).tolist()]
    assert np.mean([low <= accuracy <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.018)


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


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 5), (12, 3), (3, 12), (40, 17), (0, 9), (150, 121)])
def test_mcnemars_exact_test_is_statsmodels_and_scipys(gained, lost):
    contingency = pytest.importorskip("statsmodels.stats.contingency_tables")
    p = mcnemar_exact(gained, lost)
    assert p == pytest.approx(contingency.mcnemar([[31, gained], [lost, 8]], exact=True).pvalue, abs=1e-12)
    if gained + lost:
        assert p == pytest.approx(scipy.stats.binomtest(gained, gained + lost, 0.5).pvalue, abs=1e-12)


def test_counts_below_zero_are_refused():
    with pytest.raises(ValueError, match="not negative"):
        mcnemar_exact(-1, 3)


def clustered_by_question(scores, intervals=0.95):
    """(mean, low, high, p-value) of scores (question, sample) by statsmodels: least squares, its errors robust to clusters."""
    api = pytest.importorskip("statsmodels.api")
    scores = np.asarray(scores, dtype=float)
    groups = np.repeat(np.arange(len(scores)), scores.shape[1])
    fitted = api.OLS(scores.ravel(), np.ones(scores.size)).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    return (fitted.params[0], *fitted.conf_int(1 - intervals)[0], fitted.pvalues[0])


def test_a_difference_of_sampled_answers_has_statsmodels_clustered_errors():
    random = np.random.default_rng(3)
    chances = random.beta(0.5, 0.5, (70, 1))
    a, b = (random.random((70, 8)) < chances).astype(float), (random.random((70, 8)) < 0.8 * chances + 0.2).astype(float)
    ours = paired_interval(a.mean(1, keepdims=True).tolist(), b.mean(1, keepdims=True).tolist())
    assert ours == pytest.approx(clustered_by_question(b - a), rel=1e-6)


def test_an_accuracy_of_sampled_answers_has_statsmodels_clustered_errors():
    """At one half, where Wilson's interval is about the mean: its half width is h, and √(h²/(1 + h²)) after Wilson's scaling."""
    scores = np.repeat([[1, 0, 0, 0], [0, 1, 1, 1]], 40, axis=0)
    scores[:10], scores[-10:] = [0, 0, 0, 0], [1, 1, 1, 1]
    mean, low, high, _ = clustered_by_question(scores)
    width = (high - low) / (1 + (high - low) ** 2) ** 0.5
    assert mean == 0.5
    for ours in (clustered_interval(scores.sum(1).tolist(), 4), crossed_interval(scores.mean(1, keepdims=True).tolist())):
        assert ours == pytest.approx((0.5 - width / 2, 0.5 + width / 2), rel=1e-6)


@pytest.mark.parametrize(("right", "questions"), [(0, 30), (3, 30), (250, 500), (500, 500)])
def test_the_interval_of_single_answers_is_statsmodels(right, questions):
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    theirs = proportion.proportion_confint(right, questions, method="wilson")
    assert clustered_interval([1] * right + [0] * (questions - right), 1) == pytest.approx(theirs, abs=1e-12)


def test_seeds_are_drawn_for_all_questions_together():
    """Two models that differ from seed to seed on every question alike: that spread must be in the interval."""
    first = [[0.0, 0.0]] * 200
    second = [[0.0, 1.0]] * 200  # one seed solves everything, the other nothing
    assert paired_interval(first, second)[:3] == (0.5, -1.0, 1.0)


def test_seeds_are_pairs_where_both_have_as_many():
    """What a seed adds to both sides alike is no difference."""
    random = np.random.default_rng(0)
    first = random.random((100, 1)) * 0.1 + np.array([0.0, 0.3, 0.6])
    second = first + 0.05 + 0.01 * random.random((100, 1))
    _, low, high, _ = paired_interval(first.tolist(), second.tolist())
    assert 0.05 < low < high < 0.06
    _, low, high, _ = paired_interval(first.tolist(), second[:, :2].tolist())  # unpaired: the luck shows
    assert high - low > 0.2


def test_ties_are_ties():
    """Nothing solved by either side, in samples or not, says how large a difference may be, and no more."""
    for sides in ([[0.0]] * 50, [[0.25]] * 50, [[0.0, 0.0]] * 50):
        tied = compare(sides, sides)
        assert tied.estimate == 0 and tied.p_value == 1 and not tied.significant
        assert (tied.low, tied.high) == pytest.approx((-wilson_interval(0, 50)[1], wilson_interval(0, 50)[1]))
        assert in_words(tied).startswith("not significant")
    assert compare([[0.0]], [[0.75]]).p_value == 1  # one question


def test_few_questions_that_differ_never_tell_more_than_a_toss_of_coins():
    for differing in range(1, 12):
        said = compare([[0.5]] * 100, [[0.75]] * differing + [[0.5]] * (100 - differing))
        assert said.p_value >= 2.0 ** (1 - differing) and said.significant == (differing > 5)
        assert (said.low > 0) == said.significant
    better = compare([[0.25]] * 40, [[0.5]] * 40)
    assert better.significant and 0 < better.low < 0.25 < better.high


def test_p_values_are_adjusted_as_statsmodels_does_by_holm():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for p_values in ([0.01, 0.04, 0.03, 0.005], [0.5, 0.5], [0.02], [], [1.0, 0.0, 0.2, 0.2, 0.9]):
        theirs = multitest.multipletests(p_values, method="holm")[1] if p_values else []
        assert holm(p_values) == pytest.approx(list(theirs))


def test_a_difference_is_judged_as_one_of_so_many():
    gained = compare([[0.0]] * 60, [[1.0]] * 7 + [[0.0]] * 53)  # p = 0.016
    clear = compare([[0.0]] * 60, [[1.0]] * 60)
    assert gained.significant
    alone, sure, none = judged_together([gained, clear, compare([[0.0]] * 60, [[0.0]] * 60)])
    assert alone.significant and alone.adjusted == pytest.approx(2 * gained.p_value) and sure.significant and not none.significant
    one_of_many = judged_together([gained] * 4)[0]
    assert not one_of_many.significant
    assert "McNemar's exact p = 0.016, as one of 4 comparisons = 0.062 (Holm)" in in_words(one_of_many)


def test_questions_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="the same questions"):
        compare([[1.0]], [[1.0], [0.0]])
    with pytest.raises(ValueError, match="at least one"):
        compare([], [])


def test_a_difference_that_says_nothing_is_called_not_significant():
    a = [[1.0]] * 30 + [[0.0]] * 30
    b = [[1.0]] * 29 + [[0.0]] * 28 + [[1.0]] * 3
    said = in_words(compare(a, b), "step 0", "step 300")
    assert said.startswith("not significant") and "60 questions" in said and "McNemar" in said


def test_a_clear_difference_is_said_with_its_direction():
    a, b = [[0.0]] * 40 + [[1.0]] * 10, [[1.0]] * 50
    assert in_words(compare(a, b), "A", "B").startswith("B is better than A: +80.0 points")
    assert in_words(compare(b, a), "B", "A").startswith("A is worse than B: -80.0 points")
    assert compare(a, b).p_value == pytest.approx(scipy.stats.binomtest(40, 40, 0.5).pvalue)


def test_seeds_that_agree_narrow_the_interval_and_others_widen_it():
    random = np.random.default_rng(0)
    agreeing = (random.random((60, 4)) < 0.5).astype(float).tolist()
    apart = [[1.0, 1.0, 0.0, 0.0]] * 60
    one = crossed_interval([row[:1] for row in agreeing])

    def width(interval):
        return interval[1] - interval[0]

    assert width(crossed_interval(agreeing)) < width(one) < width(crossed_interval(apart))


def test_several_seeds_have_an_interval_and_no_mcnemar_test():
    difference = compare([[0.0, 1.0]] * 30, [[1.0, 1.0]] * 30)
    assert not difference.exact and difference.estimate == 0.5 and difference.seeds == 2
    assert not difference.significant and difference.low < 0  # one seed in two shows none
    assert "2 seeds" in in_words(difference)


def test_the_interval_of_one_seed_is_wilsons():
    scores = [[1.0]] * 13 + [[0.0]] * 7
    assert crossed_interval(scores) == wilson_interval(13, 20)
    assert crossed_interval([[0.5]] * 20) == pytest.approx(wilson_interval(10, 20), abs=0.02)
    assert crossed_interval([[0.0]] * 20) == wilson_interval(0, 20) and crossed_interval([]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("freedom", "probability"),
    [(1, 0.995), (1, 0.9), (1.7, 0.975), (5.5, 0.995), (30, 0.9), (400, 0.975), (20_000, 0.975), (1e8, 0.9)],
)
def test_students_quantile_is_scipys(freedom, probability):
    quantile = student_quantile(probability, freedom)
    assert quantile == pytest.approx(scipy.stats.t.ppf(probability, freedom), rel=1e-6)
    assert student_beyond(quantile, freedom) == pytest.approx(1 - probability, rel=1e-5)


@pytest.mark.parametrize(("successes", "trials"), [(0, 5), (5, 5), (3, 9), (40, 57), (1, 1)])
def test_the_exact_interval_is_scipys(successes, trials):
    theirs = binomtest(successes, trials).proportion_ci(0.95, method="exact")
    assert exact_interval(successes, trials) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_the_interval_of_a_difference_and_mcnemars_test_agree_on_zero():
    for gained in range(12):
        for lost in range(gained + 1):
            low, high = discordant_interval(gained, lost, 100)
            assert (low > 0 or high < 0) == (mcnemar_exact(gained, lost) < 0.05), (gained, lost)
            assert low <= (gained - lost) / 100 <= high
    assert discordant_interval(2, 9, 100) == pytest.approx(tuple(-end for end in reversed(discordant_interval(9, 2, 100))))
    assert discordant_interval(0, 0, 100) == pytest.approx((-0.037, 0.037), abs=1e-4)
    assert discordant_interval(77, 0, 96)[1] > 77 / 96  # more may be gained than were seen to be


@pytest.fixture
def quick(monkeypatch):
    """Scipy's quantiles, which equal ours (`test_students_quantile_is_scipys`, `test_the_exact_interval_is_scipys`), in simulations."""
    for module in ("intervals", "paired"):
        monkeypatch.setattr(
            f"tutelage.stats.{module}.student_quantile", lambda share, freedom: float(scipy.stats.t.ppf(share, freedom))
        )

    def exact(successes, trials, confidence):
        low, high = binomtest(successes, trials).proportion_ci(confidence, method="exact")
        return float(low), float(high)

    monkeypatch.setattr("tutelage.stats.paired.student_beyond", lambda value, freedom: float(scipy.stats.t.sf(value, freedom)))
    monkeypatch.setattr("tutelage.stats.paired.exact_interval", functools.cache(exact))


@pytest.mark.parametrize(("share", "second"), [(0.05, 0.9), (0.3, 0.5), (0.6, 0.75), (0.9, 1.0)])
def test_the_interval_of_a_difference_covers_it(quick, share, second):
    """`share` of the questions differ, and of those the second side solves `second`."""
    random, inside = np.random.default_rng(5), 0
    for _ in range(400):
        differing = random.binomial(96, share)
        gained = random.binomial(differing, second)
        low, high = discordant_interval(gained, differing - gained, 96)
        inside += low <= share * (2 * second - 1) <= high
    assert inside / 400 >= 0.94


def simulated(seeds: int, spread: float, questions: int = 120, runs: int = 300):
    """Pairs of sides that do not differ: questions of differing difficulty, models of differing skill (both in logits)."""
    random = np.random.default_rng(seeds)
    for _ in range(runs):
        difficulty = random.normal(size=(questions, 1))
        skills = spread * random.normal(size=(2, 1, seeds))
        yield tuple((random.random((questions, seeds)) < 1 / (1 + np.exp(difficulty - skill))).astype(float) for skill in skills)


@pytest.mark.parametrize(
    ("seeds", "spread", "most", "least"), [(1, 0.0, 0.07, 0.93), (2, 0.3, 0.2, 0.85), (3, 0.3, 0.12, 0.9), (5, 0.3, 0.08, 0.93)]
)
def test_equal_sides_seldom_differ_and_intervals_hold_the_truth(quick, seeds, spread, most, least):
    """Nominally one time in twenty. Of two or three seeds more often, for nobody knows how seeds spread from two of them.

    The truth of one side, over all questions and all models, is one half by symmetry.
    """
    sides = [(a.tolist(), b.tolist()) for a, b in simulated(seeds, spread)]
    said = [compare(a, b).significant for a, b in sides]
    assert sum(said) / len(said) <= most
    held = [low <= 0.5 <= high for low, high in (crossed_interval(a) for a, _ in sides)]
    assert sum(held) / len(held) >= least


def test_unequal_numbers_of_seeds_are_compared_too():
    difference = compare([[0.0, 0.2, 0.1]] * 50, [[0.9, 1.0]] * 50)
    assert difference.seeds == 2 and difference.significant and difference.estimate == pytest.approx(0.85)
