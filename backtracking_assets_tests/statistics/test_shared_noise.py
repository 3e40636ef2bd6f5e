"""The variance ratio against made-up pairs whose variances are known by repeating the study."""

import numpy as np
import pytest

from backtracking_assets.analysis.shared_noise import VarianceRatio, variance_ratio
from backtracking_assets_tests.statistics.simulations import CLUSTERS, problem_probabilities

ONES = np.ones(len(CLUSTERS))


def ratio(cell: np.ndarray, baseline: np.ndarray) -> VarianceRatio:
    return variance_ratio(cell, ONES, baseline, ONES, CLUSTERS, confidence=0.95, resamples=400, seed=0)


def outcomes(generator: np.random.Generator, shared: bool) -> tuple[np.ndarray, np.ndarray]:
    """A cell that halves each problem's probability, and its baseline."""
    probabilities, noise = problem_probabilities(generator, 0.5, 0.2), generator.random(len(CLUSTERS))
    own = noise if shared else generator.random(len(CLUSTERS))
    return (own < probabilities / 2).astype(float), (noise < probabilities).astype(float)


def test_the_ratio_is_that_of_studies_with_shared_and_with_independent_noise() -> None:
    generator = np.random.default_rng(0)
    variances = [
        np.var([np.subtract(*outcomes(generator, shared)).mean() for _ in range(3_000)]) for shared in (True, False)
    ]
    found = [ratio(*outcomes(generator, shared=True)).ratio for _ in range(60)]
    assert np.mean([value for value in found if value is not None]) == pytest.approx(
        variances[0] / variances[1], rel=0.08
    )


def test_independent_noise_has_a_ratio_of_about_one_that_its_interval_holds() -> None:
    generator = np.random.default_rng(1)
    found = [ratio(*outcomes(generator, shared=False)) for _ in range(60)]
    values = [value.ratio for value in found if value.ratio is not None]
    assert np.mean(values) == pytest.approx(1, abs=0.05)
    held = [value.low <= 1 <= value.high for value in found if value.low is not None and value.high is not None]
    assert len(held) == 60
    assert np.mean(held) >= 0.85


def test_an_intervention_that_changes_nothing_has_no_variance_with_shared_noise() -> None:
    hits = outcomes(np.random.default_rng(2), shared=True)[1]
    assert ratio(hits, hits).ratio == 0


def test_noise_turned_against_itself_makes_the_ratio_greater_than_one() -> None:
    noise = np.random.default_rng(3).random(len(CLUSTERS))
    found = ratio(noise < 0.5, noise > 0.5)
    assert found.ratio is not None
    assert found.ratio > 1.5


def test_pairs_go_by_the_order_of_rows_and_clusters_by_label() -> None:
    cell, baseline = outcomes(np.random.default_rng(4), shared=True)
    turned = np.random.default_rng(5).permutation(len(CLUSTERS))
    again = variance_ratio(
        cell[turned], ONES, baseline[turned], ONES, CLUSTERS[turned], confidence=0.95, resamples=400, seed=0
    )
    assert again.ratio == pytest.approx(ratio(cell, baseline).ratio)


def test_what_cannot_be_estimated_has_no_ratio() -> None:
    nothing = VarianceRatio(None, None, None)
    assert ratio(ONES, ONES) == nothing
    alone = variance_ratio([1, 0], [1, 1], [0, 1], [1, 1], ["a", "b"], confidence=0.95, resamples=100, seed=0)
    assert alone == nothing
    assert variance_ratio(ONES, 0 * ONES, ONES, ONES, CLUSTERS, confidence=0.95, resamples=100, seed=0) == nothing
