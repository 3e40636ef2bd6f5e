import math
import time
from itertools import product

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from statsmodels.duration.survfunc import SurvfuncRight
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from backtracking_assets.analysis.resampling import MOST_EXACT_FLIPS
from backtracking_assets.analysis.statistics import (
    Difference,
    Values,
    holm,
    mean,
    median_time_to_first_event,
    paired_difference,
    rate,
    share,
)

CONFIDENCE = 0.95


def problems(n: int, samples: int = 4) -> np.ndarray:
    return np.repeat([f"p{number:03d}" for number in range(n)], samples)


def difference(
    condition: Values, baseline: Values, clusters: np.ndarray, *, resamples: int = 10_000, seed: int = 0
) -> Difference:
    ones = np.ones(len(clusters))
    return paired_difference(
        condition, ones, baseline, ones, clusters, confidence=CONFIDENCE, resamples=resamples, seed=seed
    )


# --- Shares ------------------------------------------------------------------------------------------------------


def test_share_of_independent_rows_is_plain_wilson() -> None:
    hits = np.array([1] * 30 + [0] * 70)
    estimate = share(hits, np.ones(100), np.arange(100), confidence=CONFIDENCE)
    low, high = proportion_confint(30, 100, method="wilson")
    assert (estimate.low, estimate.high) == pytest.approx((low, high))
    assert (estimate.estimate, estimate.n, estimate.n_clusters) == (0.3, 100, 100)


def test_share_of_fully_alike_samples_counts_clusters() -> None:
    hits = np.repeat([1] * 9 + [0] * 21, 4)
    estimate = share(hits, np.ones(120), problems(30), confidence=CONFIDENCE)
    assert (estimate.low, estimate.high) == pytest.approx(proportion_confint(9, 30, method="wilson"))


@pytest.mark.parametrize("hit", [0, 1])
def test_share_at_the_extremes_counts_clusters(hit: int) -> None:
    estimate = share(np.full(120, hit), np.ones(120), problems(30), confidence=CONFIDENCE)
    assert (estimate.low, estimate.high) == pytest.approx(proportion_confint(30 * hit, 30, method="wilson"))
    assert estimate.estimate == hit


def test_share_of_steps_weighs_problems_by_their_steps() -> None:
    estimate = share([1, 0, 2], [1, 0, 5], ["a", "b", "c"], confidence=CONFIDENCE)
    assert (estimate.estimate, estimate.n, estimate.n_clusters) == (3 / 6, 6, 2)
    # Clusters of 1 and 5 steps are worth 36 / 26 clusters, fewer than two.
    whole = share([1, 0, 5], [1, 0, 5], ["a", "b", "c"], confidence=CONFIDENCE)
    assert whole.low == pytest.approx(proportion_confint(36 / 26, 36 / 26, method="wilson")[0])


def test_nothing_to_measure_has_no_estimate() -> None:
    for estimate in (
        share([0, 0], [0, 0], ["a", "b"], confidence=CONFIDENCE),
        share([], [], [], confidence=CONFIDENCE),
        rate([], [], [], per=1000, confidence=CONFIDENCE),
        mean([], [], confidence=CONFIDENCE),
    ):
        assert (estimate.estimate, estimate.low, estimate.high, estimate.n) == (None, None, None, 0)


def test_impossible_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0"):
        share([2], [1], ["a"], confidence=CONFIDENCE)
    with pytest.raises(ValueError, match="every row"):
        share([1], [1], ["a", "b"], confidence=CONFIDENCE)
    with pytest.raises(ValueError, match="not finite"):
        mean([math.nan], ["a"], confidence=CONFIDENCE)
    with pytest.raises(ValueError, match="below 0"):
        rate([1], [-1], ["a"], per=1, confidence=CONFIDENCE)


@given(
    hnp.arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 3)),
    st.integers(1, 10),
)
def test_share_interval_holds_the_estimate_and_ignores_row_order(denominators: np.ndarray, n_clusters: int) -> None:
    rng = np.random.default_rng(len(denominators))
    numerators = rng.integers(0, denominators + 1)
    clusters = rng.integers(0, n_clusters, len(denominators))
    estimate = share(numerators, denominators, clusters, confidence=CONFIDENCE)
    order = rng.permutation(len(denominators))
    assert share(numerators[order], denominators[order], clusters[order], confidence=CONFIDENCE) == estimate
    if estimate.estimate is not None:
        assert estimate.low is not None
        assert estimate.high is not None
        assert 0 <= estimate.low <= estimate.estimate <= estimate.high <= 1
        assert estimate.low < estimate.high


def coverage(n_clusters: int, a: float, b: float, draws: int) -> float:
    rng = np.random.default_rng(0)
    clusters, ones = problems(n_clusters), np.ones(4 * n_clusters)
    hits = 0
    for _ in range(draws):
        chances = np.repeat(rng.beta(a, b, n_clusters), 4)
        estimate = share(rng.random(len(ones)) < chances, ones, clusters, confidence=CONFIDENCE)
        assert estimate.low is not None
        assert estimate.high is not None
        hits += estimate.low <= a / (a + b) <= estimate.high
    return hits / draws


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.3, 3.0)])
def test_share_interval_covers_the_truth(a: float, b: float) -> None:
    assert coverage(120, a, b, draws=300) == pytest.approx(CONFIDENCE, abs=0.035)


@pytest.mark.slow
@pytest.mark.parametrize("n_clusters", [10, 30, 120])
@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.2, 0.2), (0.3, 3.0), (30.0, 30.0)])
def test_share_interval_covers_the_truth_in_many_draws(n_clusters: int, a: float, b: float) -> None:
    assert coverage(n_clusters, a, b, draws=10_000) == pytest.approx(CONFIDENCE, abs=0.025)


# --- Rates and means ---------------------------------------------------------------------------------------------


def test_mean_agrees_with_cluster_robust_regression() -> None:
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(15), 4)
    values = rng.normal(size=60) + np.repeat(rng.normal(size=15), 4)
    fit = sm.OLS(values, np.ones(60)).fit(
        cov_type="cluster", cov_kwds={"groups": clusters, "use_correction": True}, use_t=True
    )
    estimate = mean(values, clusters, confidence=CONFIDENCE)
    # statsmodels' correction has (n - 1) / (n - k) besides G / (G - 1); it is 1 for a mean.
    low, high = np.asarray(fit.conf_int())[0]
    assert (estimate.estimate, estimate.low, estimate.high) == pytest.approx((values.mean(), low, high))


def test_rate_is_a_ratio_of_sums() -> None:
    estimate = rate([1, 0, 3], [10, 20, 50], ["a", "b", "c"], per=1000, confidence=CONFIDENCE)
    assert estimate.estimate == pytest.approx(50.0)
    assert estimate.n == 80
    assert estimate.low is not None
    assert estimate.low >= 0


def test_rate_without_events_is_bounded_as_if_each_cluster_were_one_row() -> None:
    alone = rate(np.zeros(30), np.full(30, 100), np.arange(30), per=1000, confidence=CONFIDENCE)
    assert alone.high == pytest.approx(1000 * stats.chi2.ppf(0.975, 2) / 2 / 3000)
    clustered = rate(np.zeros(120), np.full(120, 100), problems(30), per=1000, confidence=CONFIDENCE)
    assert (clustered.estimate, clustered.low) == (0, 0)
    assert clustered.high == pytest.approx(alone.high)


def test_one_cluster_gives_no_interval() -> None:
    for estimate in (
        mean([1, 2], ["a", "a"], confidence=CONFIDENCE),
        rate([1, 2], [3, 3], ["a", "a"], per=1, confidence=CONFIDENCE),
    ):
        assert estimate.estimate is not None
        assert (estimate.low, estimate.high) == (None, None)


# --- Differences -------------------------------------------------------------------------------------------------


def test_exact_p_value_agrees_with_going_through_all_flips() -> None:
    rng = np.random.default_rng(2)
    condition, baseline = rng.integers(0, 2, (2, 40))
    clusters = problems(10)
    gaps = (condition - baseline).reshape(10, 4).sum(axis=1)
    flips = [
        abs(sum(sign * gap for sign, gap in zip(signs, gaps, strict=True))) for signs in product((1, -1), repeat=10)
    ]
    expected = float(np.mean(np.array(flips) >= abs(gaps.sum())))
    result = difference(condition, baseline, clusters)
    assert result.p_value == pytest.approx(expected)
    assert result.difference == pytest.approx((condition.sum() - baseline.sum()) / 40)
    assert "exact" in result.method


def test_sampled_p_value_agrees_with_scipy() -> None:
    rng = np.random.default_rng(3)
    condition, baseline = rng.random(160) < 0.6, rng.random(160) < 0.45
    result = difference(condition, baseline, problems(40))
    gaps = (condition.astype(int) - baseline).reshape(40, 4).mean(axis=1)
    reference = stats.permutation_test(
        (gaps,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=4,
    )
    assert "sampled" in result.method
    assert result.p_value == pytest.approx(float(reference.pvalue), abs=0.01)


def test_interval_agrees_with_scipys_bootstrap() -> None:
    rng = np.random.default_rng(5)
    condition, baseline = rng.random(160) < 0.6, rng.random(160) < 0.45
    result = difference(condition, baseline, problems(40))
    gaps = (condition.astype(int) - baseline).reshape(40, 4).mean(axis=1)
    reference = stats.bootstrap((gaps,), np.mean, method="percentile", n_resamples=20_000, rng=6).confidence_interval
    assert (result.low, result.high) == pytest.approx((reference.low, reference.high), abs=0.01)


@pytest.mark.parametrize("n_clusters", [MOST_EXACT_FLIPS, MOST_EXACT_FLIPS + 1])
def test_p_value_at_the_bound_between_exact_and_sampled(n_clusters: int) -> None:
    clusters = problems(n_clusters, 1)
    result = difference(np.ones(n_clusters), np.zeros(n_clusters), clusters, resamples=1_000)
    smallest = 2.0 / 2**n_clusters if n_clusters <= MOST_EXACT_FLIPS else 1 / 1001
    assert result.p_value == pytest.approx(smallest)


def test_equal_conditions_give_p_one_and_an_honest_interval() -> None:
    hits = np.random.default_rng(0).integers(0, 2, 120)
    result = difference(hits, hits, problems(30))
    assert (result.difference, result.p_value) == (0, 1)
    assert result.high == pytest.approx(proportion_confint(0, 30, method="wilson")[1])
    assert result.low == pytest.approx(-proportion_confint(0, 30, method="wilson")[1])


def test_all_against_nothing_is_not_certain() -> None:
    result = difference(np.ones(120), np.zeros(120), problems(30))
    assert (result.difference, result.high) == (1, 1)
    assert result.low == pytest.approx(proportion_confint(30, 30, method="wilson")[0])


def test_a_ratio_without_a_denominator_is_not_compared() -> None:
    result = paired_difference([0, 0], [0, 0], [1, 0], [1, 1], ["a", "b"], confidence=0.95, resamples=100, seed=0)
    assert (result.difference, result.low, result.high, result.p_value) == (None, None, None, None)


def test_ratios_with_unequal_denominators_keep_their_level() -> None:
    """The condition has three times the wrong steps, and the same share of waits: no difference to find."""
    rng = np.random.default_rng(7)
    clusters = problems(60)
    rejected = 0
    for _ in range(200):
        chances = np.repeat(rng.beta(1, 1, 60), 4)
        d1, d0 = rng.integers(0, 4, 240), rng.integers(0, 2, 240)
        result = paired_difference(
            rng.binomial(d1, chances), d1, rng.binomial(d0, chances), d0, clusters,
            confidence=CONFIDENCE, resamples=500, seed=0,
        )  # fmt: skip
        assert result.p_value is not None
        rejected += result.p_value <= 0.05
    assert 0.01 <= rejected / 200 <= 0.10


def test_the_same_seed_gives_the_same_figures_and_another_seed_others() -> None:
    rng = np.random.default_rng(8)
    condition, baseline = rng.random(160) < 0.6, rng.random(160) < 0.45
    order = rng.permutation(160)
    clusters = problems(40)
    assert difference(condition, baseline, clusters) == difference(condition[order], baseline[order], clusters[order])
    assert difference(condition, baseline, clusters) != difference(condition, baseline, clusters, seed=1)


def test_ten_thousand_resamples_of_120_problems_take_well_under_a_second() -> None:
    rng = np.random.default_rng(9)
    condition, baseline = rng.random((2, 480)) < 0.5
    started = time.process_time()
    difference(condition, baseline, problems(120), seed=99)
    assert time.process_time() - started < 1


# --- Corrections and survival ------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([None, None]) == [None, None]
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize("size", [1, 2, 40])
def test_holm_agrees_with_statsmodels(size: int) -> None:
    p_values = np.random.default_rng(size).random(size) ** 3
    assert holm(p_values.tolist()) == pytest.approx(np.asarray(multipletests(p_values, method="holm")[1]).tolist())


def test_median_agrees_with_statsmodels() -> None:
    rng = np.random.default_rng(10)
    times, observed = rng.integers(1, 300, 401), rng.random(401) < 0.7
    estimate = median_time_to_first_event(
        times, observed, np.arange(401), confidence=CONFIDENCE, resamples=2_000, seed=0
    )
    curve = SurvfuncRight(times, observed.astype(int))
    assert estimate.estimate == curve.quantile(0.5)
    low, high = curve.quantile_ci(0.5, method="linear")
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=12)


def test_median_that_is_not_reached_is_none() -> None:
    estimate = median_time_to_first_event(
        [5, 9, 9, 9], [True, False, False, False], list("abcd"), confidence=CONFIDENCE, resamples=1_000, seed=0
    )
    assert estimate.estimate is None
    assert estimate.n == 4
    assert estimate.high is None
    none = median_time_to_first_event([5, 9], [False, False], ["a", "b"], confidence=0.95, resamples=100, seed=0)
    assert (none.estimate, none.low, none.high, none.n) == (None, None, None, 2)


def test_median_of_half_surviving_is_the_time_at_which_half_is_reached() -> None:
    estimate = median_time_to_first_event(
        [1, 2, 3, 3], [True, True, False, False], list("aabb"), confidence=CONFIDENCE, resamples=100, seed=0
    )
    assert estimate.estimate == 2


def test_one_cluster_gives_no_interval_of_a_median() -> None:
    estimate = median_time_to_first_event([1, 2], [True, True], ["a", "a"], confidence=0.95, resamples=100, seed=0)
    assert (estimate.estimate, estimate.low, estimate.high) == (1, None, None)
