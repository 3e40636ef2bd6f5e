"""Intervals hold the truth and nothing is called something: short forms here, full sizes under the mark `slow`."""

import pytest

from backtracking_assets_tests.statistics import simulations
from backtracking_assets_tests.statistics.simulations import (
    CORRELATIONS,
    RATES,
    STUDIES,
    Proportion,
    coverage,
    false_alarms,
)

LEAST_COVERAGE = 0.93
MOST_FALSE_ALARMS = 0.05
EXTREMES = (0.02, 0.98)


def assert_covers(found: Proportion, errors: float) -> None:
    """At least 93%, to so many Monte Carlo errors."""
    assert found.estimate >= LEAST_COVERAGE - errors * found.standard_error, found


@pytest.mark.parametrize("correlation", CORRELATIONS)
@pytest.mark.parametrize("name", ["share", "rate"])
def test_intervals_of_rare_and_common_events_hold_the_truth(name: str, correlation: float) -> None:
    for mean in RATES:
        studies = 500 if mean in EXTREMES else 100
        assert_covers(coverage(name, mean, correlation, studies=studies, resamples=0, seed=7), errors=2)


@pytest.mark.parametrize("correlation", [0.0, 0.5])
@pytest.mark.parametrize("name", ["difference, halved", "difference, independent"])
def test_intervals_of_paired_differences_hold_the_truth(name: str, correlation: float) -> None:
    for mean in (0.02, 0.1, 0.5, 0.98):
        assert_covers(coverage(name, mean, correlation, studies=120, resamples=400, seed=7), errors=2)


@pytest.mark.parametrize("kept", [0.0, 0.8])
def test_a_plan_of_null_interventions_seldom_shows_any(kept: float) -> None:
    found = false_alarms(0.5, 0.2, kept, studies=25, resamples=1_000, seed=7)
    assert found.estimate <= MOST_FALSE_ALARMS + 2 * found.standard_error, found


def test_an_interval_that_is_too_narrow_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulations, "CONFIDENCE", 0.8)
    with pytest.raises(AssertionError):
        assert_covers(coverage("share", 0.5, 0.5, studies=200, resamples=0, seed=7), errors=2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("correlation", CORRELATIONS)
@pytest.mark.parametrize("name", list(STUDIES))
def test_coverage_at_full_size(name: str, correlation: float) -> None:
    for mean in RATES:
        assert_covers(coverage(name, mean, correlation, studies=2_000, resamples=2_000, seed=0), errors=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mean", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("kept", [0.0, 0.8])
def test_false_alarms_at_full_size(kept: float, mean: float) -> None:
    found = false_alarms(mean, 0.2, kept, studies=500, resamples=2_000, seed=0)
    assert found.estimate <= MOST_FALSE_ALARMS + found.standard_error, found
