"""Made-up studies whose truth is known: how often intervals hold it, and how often nothing is called something.

A study is 120 problems x 4 samples, as in the experiment files. A problem's probability is drawn from a beta
distribution with a mean (the rate) and an intra-cluster correlation, its samples from that probability.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backtracking_assets.analysis.statistics import Difference, holm, paired_difference, rate, share

N_PROBLEMS, N_SAMPLES = 120, 4
RATES = (0.02, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98)
CORRELATIONS = (0.0, 0.2, 0.5)
CONFIDENCE = 0.95
N_COMPARISONS = 30
"""Of the plan over which Holm corrects."""

CLUSTERS = np.repeat(np.arange(N_PROBLEMS), N_SAMPLES)
_ONES = np.ones(N_PROBLEMS * N_SAMPLES)
_TOKENS, _TOKENS_OF_AN_EVENT = 30.0, 6.0
_Hits = npt.NDArray[np.bool_]
Interval = tuple[float | None, float | None]
Study = Callable[[np.random.Generator, float, float, int], tuple[Interval, float]]
"""(generator, rate, correlation, resamples) to an interval and the truth that it should hold."""


@dataclass(frozen=True)
class Proportion:
    """How often something happened in so many made-up studies."""

    hits: int
    n: int

    @property
    def estimate(self) -> float:
        return self.hits / self.n

    @property
    def standard_error(self) -> float:
        """The Monte Carlo error; that of the bound 1 / n where it happened always or never."""
        p = min(max(self.estimate, 1 / self.n), 1 - 1 / self.n)
        return math.sqrt(p * (1 - p) / self.n)


def problem_probabilities(generator: np.random.Generator, mean: float, correlation: float) -> npt.NDArray[np.float64]:
    """Each row's probability, equal within a problem: [rows]."""
    if correlation == 0:
        return np.full(N_PROBLEMS * N_SAMPLES, mean)
    total = 1 / correlation - 1
    return np.repeat(generator.beta(mean * total, (1 - mean) * total, N_PROBLEMS), N_SAMPLES)


def share_study(
    generator: np.random.Generator, mean: float, correlation: float, resamples: int
) -> tuple[Interval, float]:
    hits = generator.random(len(CLUSTERS)) < problem_probabilities(generator, mean, correlation)
    found = share(hits, _ONES, CLUSTERS, confidence=CONFIDENCE)
    return (found.low, found.high), mean


def rate_study(
    generator: np.random.Generator, mean: float, correlation: float, resamples: int
) -> tuple[Interval, float]:
    """Events for each token: completions of unequal length, which an event makes longer."""
    hits = generator.random(len(CLUSTERS)) < problem_probabilities(generator, mean, correlation)
    tokens = 1 + generator.poisson(_TOKENS - 1, len(CLUSTERS)) + _TOKENS_OF_AN_EVENT * hits
    found = rate(hits, tokens, CLUSTERS, per=1, confidence=CONFIDENCE)
    return (found.low, found.high), mean / (_TOKENS + _TOKENS_OF_AN_EVENT * mean)


def halved_study(
    generator: np.random.Generator, mean: float, correlation: float, resamples: int
) -> tuple[Interval, float]:
    """An intervention that halves every problem's rate, with noise shared with the baseline."""
    probabilities, noise = problem_probabilities(generator, mean, correlation), generator.random(len(CLUSTERS))
    return _paired(noise < probabilities / 2, noise < probabilities, resamples), -mean / 2


def independent_study(
    generator: np.random.Generator, mean: float, correlation: float, resamples: int
) -> tuple[Interval, float]:
    """The same problems asked twice with independent noise: no difference."""
    probabilities = problem_probabilities(generator, mean, correlation)
    first = generator.random(len(CLUSTERS)) < probabilities
    second = generator.random(len(CLUSTERS)) < probabilities
    return _paired(first, second, resamples), 0.0


STUDIES: dict[str, Study] = {
    "share": share_study,
    "rate": rate_study,
    "difference, halved": halved_study,
    "difference, independent": independent_study,
}


def coverage(name: str, mean: float, correlation: float, *, studies: int, resamples: int, seed: int) -> Proportion:
    """In how many of the studies the interval holds the truth; one without an interval does not."""
    generator = np.random.default_rng([seed, list(STUDIES).index(name), round(1000 * mean), round(10 * correlation)])
    hits = 0
    for _ in range(studies):
        (low, high), truth = STUDIES[name](generator, mean, correlation, resamples)
        hits += low is not None and high is not None and low - 1e-12 <= truth <= high + 1e-12
    return Proportion(hits, studies)


def false_alarms(
    mean: float, correlation: float, kept: float, *, studies: int, resamples: int, seed: int
) -> Proportion:
    """In how many plans of null interventions Holm's correction leaves any comparison below 5%.

    Each sample keeps the baseline's outcome with probability ``kept``, as shared noise does, and is else drawn anew
    from its problem's probability; 0 is independent noise. All comparisons of a plan share the baseline.
    """
    generator = np.random.default_rng([seed, round(1000 * mean), round(10 * correlation), round(100 * kept)])
    alarms = 0
    for _ in range(studies):
        probabilities = problem_probabilities(generator, mean, correlation)
        baseline = generator.random(len(CLUSTERS)) < probabilities
        p_values = []
        for _ in range(N_COMPARISONS):
            anew = generator.random(len(CLUSTERS)) < probabilities
            cell = np.where(generator.random(len(CLUSTERS)) < kept, baseline, anew)
            p_values.append(_difference(cell, baseline, resamples).p_value)
        alarms += any(p is not None and p < 1 - CONFIDENCE for p in holm(p_values))
    return Proportion(alarms, studies)


def _paired(cell: _Hits, baseline: _Hits, resamples: int) -> Interval:
    found = _difference(cell, baseline, resamples)
    return found.low, found.high


def _difference(cell: _Hits, baseline: _Hits, resamples: int) -> Difference:
    return paired_difference(cell, _ONES, baseline, _ONES, CLUSTERS, confidence=CONFIDENCE, resamples=resamples, seed=0)
