"""Published beside measured: the section of the sweep's page on imported runs."""

from dataclasses import dataclass
from typing import Any

from backtracking_assets.measures import MEASURES
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import Cell
from backtracking_assets.reporting.drawing import estimate_of
from backtracking_assets.reporting.formats import NOT_MEASURED, format_measurement
from backtracking_assets.reporting.imported_contents import PublishedCell, PublishedSection
from backtracking_assets.reporting.measured import Measurement, SweepIndex
from backtracking_assets.reporting.page import Picture, embed
from backtracking_assets.reporting.published_figure import published_figure

MEASURES_SHOWN = ("strict_rate", "accuracy")


@dataclass(frozen=True)
class Pair:
    """A published figure and the measured one of the same cell."""

    published: PublishedCell
    measured: Measurement | None

    @property
    def name(self) -> str:
        """The cell as a row is called; all subsets share the baseline."""
        cell = self.published.cell
        return "baseline" if cell.scale == BASELINE_SCALE else str(cell)


@dataclass(frozen=True)
class PairRow:
    """One cell of one run as text."""

    run_id: str
    cell: str
    values: tuple[str, ...]
    """For each measure: published, measured, and where the one lies to the other's interval."""


def pairs_of(section: PublishedSection, index: SweepIndex) -> list[Pair]:
    """Every published figure with what this experiment measured in the same cell."""
    return [Pair(published, _measured(published, index)) for published in section.cells]


def published_values(section: PublishedSection, index: SweepIndex) -> dict[str, Any]:
    """The values of the section of the sweep's page."""
    pairs = pairs_of(section, index)
    drawn = [pair for pair in pairs if estimate_of(pair.measured) is not None]
    picture = None
    if drawn:
        picture = Picture(
            wide=embed(published_figure(drawn)),
            narrow=embed(published_figure(drawn, narrow=True)),
            alt="Points: published rates beside those measured here, a row for each cell. The table gives the figures.",
            caption="Hollow: as published, without an interval, since the runs give none; crossed where a known fault "
            "makes the figure an artifact. Filled: measured here, with its interval.",
        )
    return {
        "runs": section.runs,
        "left_out": section.left_out,
        "rows": _rows(pairs),
        "measures": [MEASURES[name].label for name in MEASURES_SHOWN],
        "picture": picture,
    }


def _measured(published: PublishedCell, index: SweepIndex) -> Measurement | None:
    if published.cell.scale == BASELINE_SCALE:
        return index.baseline(published.measure)
    return index.value(published.cell, published.measure)


def _rows(pairs: list[Pair]) -> list[PairRow]:
    by_cell: dict[tuple[str, str, Cell], dict[str, Pair]] = {}
    for pair in pairs:
        key = (pair.published.run_id, pair.name, pair.published.cell)
        by_cell.setdefault(key, {})[pair.published.measure] = pair
    return [
        PairRow(run_id, name, tuple(text for measure in MEASURES_SHOWN for text in _texts(own.get(measure), measure)))
        for (run_id, name, _), own in by_cell.items()
    ]


def _texts(pair: Pair | None, measure: str) -> tuple[str, str, str]:
    if pair is None:
        return NOT_MEASURED, NOT_MEASURED, ""
    value = f"{pair.published.value:.3f}" + (" (known fault)" if pair.published.known_fault else "")
    return value, format_measurement(pair.measured, MEASURES[measure]), _place(pair)


def _place(pair: Pair) -> str:
    measured = pair.measured
    if measured is None or measured.low is None or measured.high is None:
        return "not measured here" if measured is None else ""
    value = pair.published.value
    if value < measured.low:
        return "published is lower"
    return "published is higher" if value > measured.high else "within the interval"
