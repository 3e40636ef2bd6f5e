"""Rows of phase 1's tables by their keys, as values that texts and figures take."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from backtracking_assets.reporting.measured import Comparison, Measurement


@dataclass(frozen=True)
class Measured:
    """A measure of one prompt variant or condition, and its paired difference where it has one."""

    value: Measurement
    difference: Comparison | None


def measured_by_name(frame: pd.DataFrame, name: str) -> dict[tuple[str, str], Measured]:
    """Measures by the value of column `name` and metric, names in the order of the frame.

    Raises:
        ValueError: a name has two rows of one metric.
    """
    found: dict[tuple[str, str], Measured] = {}
    for row in frame.to_dict("records"):
        key = (str(row[name]), str(row["metric"]))
        if key in found:
            raise ValueError(f"{key[0]} has two rows of {key[1]}")
        found[key] = Measured(measurement(row), _comparison(row))
    return found


def measurement(row: Mapping[Hashable, Any]) -> Measurement:
    """The estimate of a row."""
    return Measurement(
        number(row["estimate"]),
        number(row["low"]),
        number(row["high"]),
        int(row["n"]),
        int(row["n_problems"]),
        str(row["method"]),
    )


def number(value: Any) -> float | None:
    """A float; None for every form of a missing value."""
    return None if pd.isna(value) else float(value)


def _comparison(row: Mapping[Hashable, Any]) -> Comparison | None:
    if pd.isna(row["difference"]):
        return None
    return Comparison(
        number(row["difference"]),
        number(row["difference_low"]),
        number(row["difference_high"]),
        number(row["p_value"]),
        number(row["p_holm"]),
        int(row["n_pairs"]),
        int(row["n_problems"]),
        str(row["difference_method"]),
    )
