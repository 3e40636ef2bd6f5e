"""Means and rates with their 95% intervals."""

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

_NORMAL_975 = 1.959964


class Estimate(BaseModel):
    """A mean or a rate with its 95% interval."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of independent values; raises ValueError for fewer than two."""
    return rate_estimate(values, [1.0] * len(values))


def rate_estimate(hits: Sequence[float], trials: Sequence[float]) -> Estimate:
    """Return the rate sum(hits) / sum(trials), each pair of numbers being one cluster (here: one problem).

    The interval is the ratio estimator's normal approximation (Cochran, Sampling Techniques, section 6.3). Raises
    ValueError for fewer than two clusters and where nothing was tried.
    """
    clusters, total = len(trials), sum(trials)
    if clusters < 2 or total <= 0:
        raise ValueError(f"an interval needs two clusters and a trial; there are {clusters} and {total:g}")
    rate = sum(hits) / total
    squares = sum((hit - rate * trial) ** 2 for hit, trial in zip(hits, trials, strict=True))
    margin = _NORMAL_975 * math.sqrt(squares * clusters / (clusters - 1)) / total
    return Estimate(value=round(rate, 4), low=round(rate - margin, 4), high=round(rate + margin, 4))
