"""The estimates beside those of statsmodels and scipy, where these have the method or a neighbor of it."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.rates import confint_poisson

from backtracking_assets.analysis.statistics import paired_difference, rate, share
from backtracking_assets_tests.statistics.simulations import CLUSTERS, N_SAMPLES, problem_probabilities

ONES = np.ones(len(CLUSTERS))


def hits_of(seed: int, mean: float, correlation: float) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.random(len(CLUSTERS)) < problem_probabilities(generator, mean, correlation)).astype(float)


@pytest.mark.parametrize("correlation", [0.0, 0.2, 0.5])
def test_a_shares_interval_is_about_that_of_gee_on_the_logit(correlation: float) -> None:
    hits = hits_of(1, 0.4, correlation)
    fitted = sm.GEE(hits, ONES, groups=CLUSTERS, family=sm.families.Binomial()).fit()
    assert fitted is not None
    low, high = (1 / (1 + np.exp(-end)) for end in fitted.conf_int()[0])
    found = share(hits, ONES, CLUSTERS, confidence=0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.004)


def test_a_rates_interval_is_about_that_of_a_cluster_robust_poisson_regression() -> None:
    hits, tokens = hits_of(2, 0.3, 0.2), 20.0 + np.random.default_rng(3).poisson(15, len(CLUSTERS))
    model = sm.GLM(hits, ONES, family=sm.families.Poisson(), exposure=tokens)
    fitted = model.fit(cov_type="cluster", cov_kwds={"groups": CLUSTERS})
    low, high = np.exp(fitted.conf_int()[0])
    found = rate(hits, tokens, CLUSTERS, per=1, confidence=0.95)
    assert found.estimate == pytest.approx(float(np.exp(fitted.params[0])))
    assert (found.low, found.high) == pytest.approx((low, high), rel=0.02)


def test_a_differences_interval_is_about_that_of_a_cluster_robust_regression() -> None:
    cell, baseline = hits_of(4, 0.3, 0.2), hits_of(5, 0.5, 0.2)
    found = paired_difference(cell, ONES, baseline, ONES, CLUSTERS, confidence=0.95, resamples=10_000, seed=0)
    fitted = sm.OLS(cell - baseline, ONES).fit(cov_type="cluster", cov_kwds={"groups": CLUSTERS}, use_t=True)
    low, high = fitted.conf_int()[0]
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.004)


def test_exact_sign_flips_are_scipys() -> None:
    generator = np.random.default_rng(6)
    clusters, ones = np.repeat(np.arange(9), N_SAMPLES), np.ones(9 * N_SAMPLES)
    cell, baseline = generator.integers(0, 2, (2, len(clusters)))
    gaps = (cell - baseline).reshape(9, N_SAMPLES).mean(axis=1)
    reference = stats.permutation_test(
        (gaps,), lambda x, axis: x.mean(axis=axis), permutation_type="samples", vectorized=True, n_resamples=2**9
    )
    found = paired_difference(cell, ones, baseline, ones, clusters, confidence=0.95, resamples=500, seed=0)
    assert "exact" in found.method
    assert found.p_value == pytest.approx(float(reference.pvalue))


def test_the_interval_of_few_events_is_about_statsmodels_score_interval_of_a_poisson_count() -> None:
    hits = np.zeros(len(CLUSTERS))
    hits[np.arange(10) * N_SAMPLES] = 1  # each in a problem of its own
    found = rate(hits, ONES, CLUSTERS, per=len(CLUSTERS), confidence=0.95)
    low, high = confint_poisson(10, 1, method="score", alpha=0.05)
    assert (found.low, found.high) == pytest.approx((low, high), rel=0.05)
