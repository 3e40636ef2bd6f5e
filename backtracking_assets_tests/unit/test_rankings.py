"""Figures of a ranking against hand-counted ones and against scipy."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from backtracking_assets.analysis.rankings import find, ranked

TRUE = np.array([True, False, True, False, False, True])


def figures(scores: np.ndarray, clusters: list[str] | None = None, true: np.ndarray = TRUE, seed: int = 0):
    named = clusters or [f"p{row}" for row in range(len(scores))]
    return find(scores, named, true, confidence=0.95, resamples=2_000, seed=seed)


def test_a_ranking_counted_by_hand() -> None:
    # In order: true, false, true, false, true, false.
    found = figures(np.array([[6.0, 5.0, 4.0, 3.0, 1.0, 2.0]]))
    assert found.precision_at_k.estimate == pytest.approx(2 / 3)
    assert found.recall_at_2k.estimate == 1
    assert found.average_precision.estimate == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert found.roc_auc.estimate == pytest.approx(6 / 9)
    assert found.average_precision.low is None  # one problem


def test_the_area_is_that_of_mann_and_whitney() -> None:
    scores = np.random.default_rng(3).normal(size=(1, 40))
    true = np.random.default_rng(4).random(40) < 0.3
    expected = mannwhitneyu(scores[0, true], scores[0, ~true]).statistic / (true.sum() * (~true).sum())
    assert figures(scores, true=true).roc_auc.estimate == pytest.approx(expected)


def test_ties_count_against_the_ranking() -> None:
    found = figures(np.zeros((1, 6)))
    assert found.roc_auc.estimate == 0
    assert found.precision_at_k.estimate == 0
    assert ranked(np.zeros(6), TRUE).tolist() == [4, 1, 5, 2, 3, 6]


def test_a_perfect_ranking_is_as_unlikely_as_one_order_in_twenty() -> None:
    scores = np.tile(np.where(TRUE, 1.0, 0.0) + np.arange(6) / 100, (8, 1))
    found = figures(scores)
    assert found.average_precision.estimate == found.average_precision.low == found.average_precision.high == 1
    assert found.p_value == pytest.approx(1 / 20, abs=0.015)  # 3 of 6 in front: one of 20 choices


def test_orders_that_say_nothing_get_small_p_values_seldom() -> None:
    generator = np.random.default_rng(11)
    true = np.arange(28) < 5
    p_values = [
        find(generator.normal(size=(6, 28)), [*"aabbcc"], true, confidence=0.95, resamples=400, seed=1).p_value
        for _ in range(100)
    ]
    # The standard error of a share of 0.05 among 100 is 0.022.
    assert np.mean(np.array(p_values) <= 0.05) < 0.05 + 3 * 0.0218
    assert 0.35 < np.mean(p_values) < 0.65


def test_the_interval_is_of_problems_not_of_events() -> None:
    """Events of one problem that are alike make no interval narrower."""
    scores = np.random.default_rng(5).normal(size=(12, 6)) + np.where(TRUE, 0.6, 0.0)
    once = figures(scores)
    repeated = figures(np.repeat(scores, 5, axis=0), [f"p{row}" for row in range(12) for _ in range(5)])
    # Both have 12 problems, so the very same resamples; only their names are sorted otherwise.
    assert repeated.average_precision.estimate == pytest.approx(once.average_precision.estimate)
    assert repeated.average_precision.low == pytest.approx(once.average_precision.low, abs=0.1)
    alone = figures(np.repeat(scores, 5, axis=0))
    assert alone.average_precision.low is not None
    assert repeated.average_precision.low is not None
    assert alone.average_precision.low > repeated.average_precision.low


def test_the_order_of_events_does_not_matter() -> None:
    scores, clusters = np.random.default_rng(6).normal(size=(10, 6)), [f"p{row // 2}" for row in range(10)]
    assert figures(scores, clusters) == figures(scores[::-1], clusters[::-1])


@pytest.mark.parametrize(
    ("scores", "true"),
    [
        (np.array([[1.0, np.nan]]), np.array([True, False])),
        (np.empty((0, 2)), np.array([True, False])),
        (np.array([[1.0, 2.0]]), np.array([True, True])),
        (np.array([[1.0, 2.0]]), np.array([False, False])),
    ],
)
def test_what_cannot_be_ranked_is_refused(scores: np.ndarray, true: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be"):
        find(scores, ["p"] * len(scores), true, confidence=0.95, resamples=100, seed=0)
