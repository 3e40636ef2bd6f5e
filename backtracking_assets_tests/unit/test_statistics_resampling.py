"""What is computed for many columns at once equals what each gives by itself, and what the plain formulas give."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from backtracking_assets.analysis.paired_differences import Pair, paired_differences
from backtracking_assets.analysis.quantiles import percentiles
from backtracking_assets.analysis.resampling import (
    bootstrap_weights,
    resampled_columns,
    sign_flip_p_values,
)
from backtracking_assets.analysis.shared_noise import variance_ratio, variance_ratios
from backtracking_assets.analysis.statistics import paired_difference

DRAWS: dict[str, Any] = {"resamples": 500, "seed": 3}


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float64, st.integers(1, 900), elements=st.floats(-1e6, 1e6).map(lambda x: round(x, 2))),
    st.floats(0.0001, 0.4999),
)
def test_percentiles_are_those_of_numpy_bit_by_bit(values: np.ndarray, low: float) -> None:
    assert percentiles(values, (low, 1 - low)) == tuple(np.quantile(values, (low, 1 - low)))


@pytest.mark.parametrize("kind", ["normal", "ties", "one value", "heavy"])
def test_percentiles_of_many_resamples(kind: str) -> None:
    generator = np.random.default_rng(0)
    values = {
        "normal": generator.normal(size=10_000),
        "ties": generator.integers(0, 3, 10_000) / 7,
        "one value": np.full(10_000, 0.25),
        "heavy": generator.standard_cauchy(10_000),
    }[kind]
    for low in (0.0005, 0.01, 0.025, 0.1):
        assert percentiles(values, (low, 1 - low)) == tuple(np.quantile(values, (low, 1 - low)))


@pytest.mark.parametrize("largest", [9, 2**22, 2**40])
def test_sums_of_counts_are_exact_whatever_the_precision(largest: int) -> None:
    counts = np.random.default_rng(0).integers(0, largest, (3, 30)).astype(float)
    weights = bootstrap_weights(30, **DRAWS).astype(np.int64)
    for column, own in zip(resampled_columns(counts, **DRAWS), counts, strict=True):
        assert column.drawn.tolist() == (weights @ own.astype(np.int64)).tolist()
        assert column.total == own.sum()


def test_flips_up_to_sixteen_are_all_gone_through() -> None:
    contributions = np.array([0.5, -0.25, 0.0, 0.125, 1.0, -0.75])
    others = contributions[contributions != 0]
    flipped = [abs(float(np.dot(signs, others))) for signs in product((1, -1), repeat=len(others))]
    expected = np.mean([value >= abs(contributions.sum()) - 1e-12 for value in flipped])
    assert sign_flip_p_values([contributions, 0 * contributions], **DRAWS) == [(expected, "exact"), (1.0, "exact")]


def paired_rows(n_clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    d1, d0 = generator.integers(0, 4, (2, 3 * n_clusters)).astype(float)
    return generator.binomial(d1.astype(int), 0.4).astype(float), d1, generator.binomial(d0.astype(int), 0.6) * 1.0, d0


@pytest.mark.parametrize("n_clusters", [1, 2, 12, 40])
def test_what_is_computed_together_is_what_each_gives_alone(n_clusters: int) -> None:
    index = np.repeat(np.arange(n_clusters), 3)
    given_rows = [paired_rows(n_clusters, seed) for seed in range(5)]
    nothing = np.zeros(3 * n_clusters)
    given_rows += [(nothing, nothing, nothing, nothing), (nothing, nothing + 1, nothing, nothing + 1)]
    pairs = []
    for rows in given_rows:
        sums = np.stack([np.bincount(index, column).astype(np.float64) for column in rows])
        pairs.append(Pair(*resampled_columns(sums, **DRAWS), n_pairs=len(index)))
    together = paired_differences(pairs, confidence=0.9, **DRAWS)
    assert together == [paired_difference(*rows, index, confidence=0.9, **DRAWS) for rows in given_rows]
    ratios = variance_ratios(given_rows, index, n_clusters, confidence=0.9, **DRAWS)
    for found, rows in zip(ratios, given_rows, strict=True):
        alone = variance_ratio(*rows, index, confidence=0.9, **DRAWS)
        assert (found.ratio, found.low is None) == (alone.ratio, alone.low is None)
        if found.low is not None:
            assert (found.low, found.high) == pytest.approx((alone.low, alone.high), rel=1e-12)
