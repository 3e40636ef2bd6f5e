"""The settings that estimates are made by, and the version of the code that applies them.

Apart from that code, so that whoever asks whether a cell is measured by these settings needs no statistics packages.
"""

from typing import Any

from backtracking_assets import conditions
from backtracking_assets.experiment_sections import Statistics

METRICS_VERSION = "2"
"""Raised whenever a change of `analysis` changes an estimate or an interval."""


def statistics_document(statistics: Statistics) -> dict[str, Any]:
    """The settings and the version of the code that applies them, as JSON values."""
    return {"version": METRICS_VERSION, "statistics": statistics.model_dump(mode="json")}


def statistics_digest(statistics: Statistics) -> str:
    """Hexadecimal sha256 of `statistics_document`."""
    return conditions.digest(statistics_document(statistics))
