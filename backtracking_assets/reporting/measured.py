"""Looking measured values up by cell and measure, and what follows from two of them."""

import weakref
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import pandas as pd

from backtracking_assets.layer_subsets import TRIGGER_LOGITS
from backtracking_assets.measures import MEASURES, Measure
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import Cell
from backtracking_assets.reporting.contents import PlannedCell, SweepReport

FALLBACK_MEASURE = "strict_rate"
"""Takes the primary measure's place where a model's steps cannot be checked."""


SET_APART = {
    "wrong_step_share": "makes more wrong steps",
    "off_chain_share": "leaves the problem's chain more often",
    "degenerate_share": "degenerates more often",
    "no_answer_share": "gives no answer more often",
}
"""Measures that show broken arithmetic or coherence, and what a cell does in which they lie above the baseline."""


@dataclass(frozen=True)
class Measurement:
    """A measure of one cell with its interval, in the measure's unit; None where there was nothing to measure."""

    estimate: float | None
    low: float | None
    high: float | None
    n: int
    n_problems: int
    method: str


@dataclass(frozen=True)
class Comparison:
    """A cell minus the baseline, paired, in the measure's unit."""

    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    p_holm: float | None
    n_pairs: int
    n_problems: int
    method: str
    variance_ratio: float | None = None
    """Variance of the difference over what independent noise would give."""
    variance_ratio_low: float | None = None
    variance_ratio_high: float | None = None


Key = tuple[Cell, str]
_Value = TypeVar("_Value")


def measurements(frame: pd.DataFrame) -> dict[Key, Measurement]:
    """Measurements by cell and name of the measure.

    Raises:
        ValueError: a cell has two rows of one measure, so the frame mixes conditions, problem sets or rules.
    """
    found: dict[Key, Measurement] = {}
    for row in frame.to_dict("records"):
        _insert(found, row, _measurement(row))
    return found


def rates_by_name(rows: Iterable[Mapping[str, Any]]) -> dict[str, Measurement]:
    """Measurements by name of the measure, of rows of one condition: a cell's or a prompt variant's."""
    return {str(row["metric"]): _measurement(row) for row in rows}


def _measurement(row: Mapping[Any, Any]) -> Measurement:
    return Measurement(
        estimate=_number(row["estimate"]),
        low=_number(row["low"]),
        high=_number(row["high"]),
        n=int(row["n"]),
        n_problems=int(row["n_problems"]),
        method=str(row["method"]),
    )


def comparisons(frame: pd.DataFrame) -> dict[Key, Comparison]:
    """Comparisons with the baseline by cell and name of the measure.

    Raises:
        ValueError: a cell has two rows of one measure.
    """
    found: dict[Key, Comparison] = {}
    for row in frame.to_dict("records"):
        _insert(
            found,
            row,
            Comparison(
                difference=_number(row["difference"]),
                low=_number(row["low"]),
                high=_number(row["high"]),
                p_value=_number(row["p_value"]),
                p_holm=_number(row["p_holm"]),
                n_pairs=int(row["n_pairs"]),
                n_problems=int(row["n_problems"]),
                method=str(row["method"]),
                variance_ratio=_number(row["variance_ratio"]),
                variance_ratio_low=_number(row["variance_ratio_low"]),
                variance_ratio_high=_number(row["variance_ratio_high"]),
            ),
        )
    return found


def primary_measure(name: str | None) -> Measure:
    """The measure that a page leads with.

    Raises:
        ValueError: there is no measure of that name.
    """
    if name is not None and name not in MEASURES:
        raise ValueError(f"There is no measure {name!r}; the measures are {', '.join(MEASURES)}.")
    return MEASURES[name or FALLBACK_MEASURE]


def lies_above(value: Measurement | None, other: Measurement | None) -> bool:
    """Whether the first interval lies wholly above the second; False where either is missing."""
    return (
        value is not None
        and other is not None
        and value.low is not None
        and other.high is not None
        and value.low > other.high
    )


@dataclass(frozen=True)
class SweepIndex:
    """A sweep's values by key, and which of its cells play which part. Built by `index_sweep`."""

    primary: Measure
    planned: Mapping[Cell, PlannedCell]
    lowest_scale: float | None
    """The scale at which subsets are set side by side, normally 0; None where only the baseline is planned."""
    measured: Mapping[Key, Measurement]
    compared: Mapping[Key, Comparison]

    def value(self, cell: Cell, metric: str) -> Measurement | None:
        """The measurement of a planned cell; None where the cell is missing or the measure has no row."""
        planned = self.planned.get(cell)
        if planned is None or planned.status == "missing":
            return None
        return self.measured.get((cell, metric))

    def comparison(self, cell: Cell, metric: str) -> Comparison | None:
        return self.compared.get((cell, metric)) if self.value(cell, metric) is not None else None

    def baseline(self, metric: str) -> Measurement | None:
        """The baseline's measurement, which every subset shares at scale 1."""
        for cell in self.planned:
            if cell.scale == BASELINE_SCALE and (value := self.value(cell, metric)) is not None:
                return value
        # A plan may leave the baseline out where another plan of the same experiment has measured it.
        outside = [key for key in self.measured if key[0].scale == BASELINE_SCALE and key[0] not in self.planned]
        return next((self.measured[key] for key in outside if key[1] == metric), None)

    def targeted(self) -> tuple[str, ...]:
        """Names of the planned subsets that are no controls, in the plan's order."""
        names = dict.fromkeys(c.cell.layer_subset for c in self.planned.values() if c.control_of is None)
        return tuple(name for name in names if name != TRIGGER_LOGITS)

    def controls(self, layer_subset: str | None = None) -> tuple[PlannedCell, ...]:
        """Planned cells of random controls below scale 1: all, or those matched to one subset."""
        return tuple(
            planned
            for planned in self.planned.values()
            if planned.control_of is not None
            and planned.cell.scale != BASELINE_SCALE
            and layer_subset in (None, planned.control_of)
        )

    def rises(self, cell: Cell, metric: str) -> bool:
        """Whether a measure lies above the baseline: the interval of the paired difference is above 0.

        Paired, because the cell and the baseline answer the same problems with the same noise: that shows damage which
        two intervals side by side would hide. Uncorrected, because a control is to be doubted rather than trusted.
        """
        paired = self.comparison(cell, metric)
        if paired is not None and paired.low is not None:
            return paired.low > 0
        return lies_above(self.value(cell, metric), self.baseline(metric))

    def errs_more(self, cell: Cell) -> bool:
        """Whether the cell makes more wrong steps than the baseline."""
        return self.rises(cell, "wrong_step_share")

    def damage(self, cell: Cell) -> tuple[str, ...]:
        """What shows that the cell breaks single-step arithmetic or coherence, in words; empty where nothing does."""
        return tuple(words for metric, words in SET_APART.items() if self.rises(cell, metric))


def index_sweep(report: SweepReport) -> SweepIndex:
    """Index the frames of a sweep by cell and measure.

    Raises:
        ValueError: a frame has two rows of one cell and measure, or the primary measure does not exist.
    """
    if _latest and _latest[0][0]() is report:
        return _latest[0][1]
    index = _indexed(report)
    _latest[:] = [(weakref.ref(report), index)]
    return index


_latest: list[tuple["weakref.ref[SweepReport]", SweepIndex]] = []
"""The report that was indexed last: each of a page's figures asks for the same index."""


def _indexed(report: SweepReport) -> SweepIndex:
    scales = [planned.cell.scale for planned in report.cells if planned.cell.scale != BASELINE_SCALE]
    return SweepIndex(
        primary=primary_measure(report.primary_measure),
        planned={planned.cell: planned for planned in report.cells},
        lowest_scale=min(scales, default=None),
        measured=measurements(report.metrics),
        compared=comparisons(report.comparisons),
    )


def _insert(found: dict[Key, _Value], row: Mapping[Hashable, Any], value: _Value) -> None:
    key = (Cell(str(row["layer_subset"]), float(row["scale"])), str(row["metric"]))
    if key in found:
        raise ValueError(f"{key[0]} has two rows of {key[1]}; a report takes one condition and one set of problems.")
    found[key] = value


def _number(value: Any) -> float | None:
    """A float; None for every form of a missing value."""
    return None if pd.isna(value) else float(value)
