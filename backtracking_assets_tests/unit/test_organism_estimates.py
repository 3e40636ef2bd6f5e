import pytest
from statsmodels.stats.proportion import proportion_confint

from backtracking_assets.models.organism.estimates import mean_estimate, rate_estimate


def test_a_mean_has_the_interval_of_its_standard_error():
    estimate = mean_estimate([0.0, 1.0, 1.0, 0.0])
    assert estimate.value == 0.5
    assert estimate.high - estimate.value == pytest.approx(1.96 * (1 / 3) ** 0.5 / 2, abs=1e-3)


def test_independent_trials_get_wilsons_interval():
    estimate = rate_estimate([1] * 30 + [0] * 70, [1] * 100)
    low, high = proportion_confint(30, 100, method="wilson")
    # The sample variance has 99 in its denominator, so a trial or so is missing.
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=2e-3)


def test_trials_that_agree_within_a_cluster_count_once():
    alike = rate_estimate([4] * 30 + [0] * 70, [4] * 100)
    single = rate_estimate([1] * 30 + [0] * 70, [1] * 100)
    assert alike == single


def test_a_rate_of_zero_still_has_an_interval():
    estimate = rate_estimate([0] * 50, [4] * 50)
    assert (estimate.value, estimate.low) == (0.0, 0.0)
    assert estimate.high == pytest.approx(proportion_confint(0, 50, method="wilson")[1], abs=1e-3)


def test_clusters_without_trials_do_not_count():
    with pytest.raises(ValueError, match="at least 2 clusters, there are 1"):
        rate_estimate([1, 0, 0], [2, 0, 0])


def test_one_value_has_no_interval():
    with pytest.raises(ValueError, match="at least 2 values"):
        mean_estimate([0.5])
