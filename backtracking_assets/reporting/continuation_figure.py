"""The figure of the continuation ablation: a row for each intervention, beside the unscaled run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from backtracking_assets.records import UNSCALED, Cell
from backtracking_assets.reporting.contents import ContinuationResults
from backtracking_assets.reporting.continuation import Figures, figures_at, figures_by_place
from backtracking_assets.reporting.drawing import (
    BASELINE_DASHES,
    NARROW,
    WIDE,
    Look,
    Point,
    draw_points,
    name_rows,
    reach_of,
)
from backtracking_assets.reporting.layout import GridLayout
from backtracking_assets.reporting.style import BAND, INK, MUTED, house_style, series_style

_ROW_INCHES = 0.27
_GAP = 0.6
"""Rows between two subsets."""


@dataclass(frozen=True)
class _Series:
    """One mark in each row of a panel."""

    kind: str
    scaled_at: str
    measure: str
    offset: float
    hollow: bool


@dataclass(frozen=True)
class _Panel:
    title: str
    series: tuple[_Series, ...]
    """The first one's unscaled run is the dashed line."""


@house_style()
def continuation_figure(results: ContinuationResults, narrow: bool = False) -> Figure:
    """Three panels over the interventions: the onset token, all trigger tokens, and the sampled continuations."""
    panels = (
        _Panel(
            "Probability of the onset token",
            (
                _Series("event", "one_position", "onset_probability", -0.14, False),
                _Series("control", "one_position", "onset_probability", 0.16, True),
            ),
        ),
        _Panel(
            "Probability of all trigger tokens",
            (
                _Series("event", "one_position", "trigger_probability", -0.14, False),
                _Series("control", "one_position", "trigger_probability", 0.16, True),
            ),
        ),
        _Panel(
            f"Trigger within {results.max_new_tokens} sampled tokens",
            (
                _Series("event", "one_position", "comes_within", -0.14, False),
                _Series("event", "from_there_on", "comes_within", 0.16, True),
            ),
        ),
    )
    places = _rows(results.cells)
    height = _ROW_INCHES * (max(places.values()) + 1)
    size = (NARROW, 3 * (height + 0.6) + 1.0) if narrow else (WIDE, height + 1.2)
    figure = Figure(figsize=size, layout=GridLayout())
    grid = figure.subplots(3 if narrow else 1, 1 if narrow else 3, squeeze=False).ravel()
    found = figures_by_place(results)
    for position, (axes, panel) in enumerate(zip(grid, panels, strict=True)):
        _draw_panel(axes, panel, places, found, named=narrow or not position)
    figure.legend(handles=_handles(), loc="outside lower center", ncols=1 if narrow else 4)
    return figure


def _rows(cells: Sequence[Cell]) -> dict[Cell, float]:
    """Where each cell's row stands: subsets apart from each other."""
    places: dict[Cell, float] = {}
    at = 0.0
    for before, cell in zip((None, *cells), cells, strict=False):
        at += _GAP if before is not None and before.layer_subset != cell.layer_subset else 0.0
        places[cell] = at
        at += 1
    return places


def _draw_panel(
    axes: Axes,
    panel: _Panel,
    places: Mapping[Cell, float],
    found: Mapping[tuple[Cell, str, str, str], Figures],
    named: bool,
) -> None:
    axes.set_title(panel.title)
    axes.grid(True, axis="x")
    leading = panel.series[0]
    unscaled = figures_at(found, UNSCALED, leading.kind, leading.scaled_at, leading.measure)
    if unscaled is not None:
        if unscaled.low is not None and unscaled.high is not None:
            axes.axvspan(unscaled.low, unscaled.high, color=BAND, zorder=0.6, linewidth=0)
        axes.axvline(unscaled.estimate, color=INK, linewidth=1, linestyle=BASELINE_DASHES, zorder=0.7)
    colors = {name: series_style(number) for number, name in enumerate(dict.fromkeys(c.layer_subset for c in places))}
    points: list[Point] = []
    for cell, place in places.items():
        color, marker = colors[cell.layer_subset]
        for series in panel.series:
            own = figures_at(found, cell, series.kind, series.scaled_at, series.measure)
            if own is None:
                axes.text(0.01, place + series.offset, "none", color=MUTED, style="italic", va="center", fontsize=7)
                continue
            look = Look(color, marker, size=4.5, hollow=series.hollow, cap=2)
            points.append(Point(own.estimate, place + series.offset, look, reach_of(own.estimate, own.low, own.high)))
    draw_points(axes, points)
    name_rows(axes, [*places.values()], [f"{cell.layer_subset} {cell.scale:g}" for cell in places] if named else [])
    axes.set(xlim=(-0.02, 1.02), ylim=(max(places.values()) + 0.6, -0.6))


def _handles() -> list[Artist]:
    def point(marker: str, hollow: bool, label: str) -> Line2D:
        face = "white" if hollow else MUTED
        return Line2D([], [], color=MUTED, marker=marker, mfc=face, markersize=5, linestyle="none", label=label)

    return [
        Line2D([], [], color=INK, linewidth=1, linestyle=BASELINE_DASHES, label="unscaled, at events"),
        Patch(color=BAND, label="its interval"),
        point("o", False, "event, scaled at one position"),
        point("o", True, "matched position (sampled: scaled from there on)"),
    ]
