"""The marks that all figures share: points with intervals, the baseline, legend entries, axes that start at zero."""

import math
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from backtracking_assets.measures import Measure
from backtracking_assets.records import Cell
from backtracking_assets.reporting.contents import PlannedCell
from backtracking_assets.reporting.measured import Measurement, SweepIndex
from backtracking_assets.reporting.style import BAND, INK, MUTED

WIDE, NARROW = 9.2, 4.0
"""Widths in inches: a column of text, and a telephone held upright."""

BASELINE_DASHES = (0, (4, 2))


def estimate_of(value: Measurement | None) -> float | None:
    return None if value is None else value.estimate


def reach(value: Measurement) -> list[list[float]] | None:
    """Distances from the estimate to the ends of its interval, as errorbar wants them; None without an interval."""
    if value.estimate is None or value.low is None or value.high is None:
        return None
    # An interval by another method than the estimate's may miss it by a rounding error; a length is never negative.
    return [[max(value.estimate - value.low, 0.0)], [max(value.high - value.estimate, 0.0)]]


def draw_point(
    axes: Axes,
    x: float,
    y: float,
    color: str,
    marker: str,
    x_reach: list[list[float]] | None = None,
    y_reach: list[list[float]] | None = None,
    size: float = 5.5,
    hollow: bool = False,
    cap: float = 2.5,
    line_width: float = 1.1,
    edge: str | None = None,
    alpha: float = 1.0,
) -> None:
    """A point with the intervals given. `marker` may be `none` for the intervals alone."""
    axes.errorbar(
        x,
        y,
        xerr=x_reach,
        yerr=y_reach,
        fmt=marker,
        color=color,
        markersize=size,
        markerfacecolor="white" if hollow else color,
        markeredgecolor=edge or color,
        elinewidth=line_width,
        capthick=line_width,
        capsize=cap,
        alpha=alpha,
    )


def draw_baseline(axes: Axes, baseline: Measurement | None, vertical: bool) -> None:
    """The baseline as a dashed line and its interval as a band; nothing where it is not measured."""
    if baseline is None or baseline.estimate is None:
        return
    span, line = (axes.axvspan, axes.axvline) if vertical else (axes.axhspan, axes.axhline)
    if baseline.low is not None and baseline.high is not None:
        span(baseline.low, baseline.high, color=BAND, zorder=0.6, linewidth=0)
    line(baseline.estimate, color=INK, linewidth=1, linestyle=BASELINE_DASHES, zorder=0.7)


def baseline_handles(index: SweepIndex, measure: Measure) -> list[Artist]:
    """Legend entries of the baseline; none where it is not drawn."""
    if estimate_of(index.baseline(measure.name)) is None:
        return []
    return [
        Line2D([], [], color=INK, linewidth=1, linestyle=BASELINE_DASHES, label="baseline"),
        Patch(color=BAND, label="its interval"),
    ]


def control_marker(index: SweepIndex, control: PlannedCell) -> str:
    """A circle, or a cross for a random control that is set apart."""
    return "X" if index.damage(control.cell) else "o"


def control_handles(index: SweepIndex, controls: Sequence[PlannedCell], measure: Measure) -> list[Artist]:
    """Legend entries of the random controls that are drawn."""
    present = {control_marker(index, c) for c in controls if estimate_of(index.value(c.cell, measure.name)) is not None}
    entries = (("o", "matched random control"), ("X", "… set apart: breaks arithmetic or coherence"))
    return [
        Line2D([], [], color=MUTED, marker=marker, mfc="white", markersize=5, linestyle="none", label=label)
        for marker, label in entries
        if marker in present
    ]


def missing_handle() -> Artist:
    return Line2D([], [], color=MUTED, marker="x", linestyle="none", markersize=5, label="not measured")


def top_of_axis(index: SweepIndex, measure: Measure, cells: Sequence[Cell]) -> float:
    """Upper end of a value axis that starts at zero and holds every interval of the cells and the baseline."""
    values = [*(index.value(cell, measure.name) for cell in cells), index.baseline(measure.name)]
    ends = [end for v in values if v is not None for end in (v.estimate, v.high) if end is not None]
    highest = max(ends, default=1.0) or 1.0
    return min(highest * 1.06, 1.02) if measure.unit == "share" else highest * 1.06


def spread(count: int, width: float) -> list[float]:
    """Offsets from 0 to `width` at equal distances; a single one is 0."""
    return [width * number / max(count - 1, 1) for number in range(count)]


def note_figure(text: str, narrow: bool) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure = Figure(figsize=(NARROW if narrow else WIDE, 1.0))
    figure.text(0.5, 0.5, text, ha="center", va="center", color=MUTED, style="italic")
    return figure


def whisker_points(x: Measurement, y: Measurement, steps: int = 6) -> list[tuple[float, float]]:
    """Points along both intervals of a measured point, in data coordinates: where no label should lie."""
    if x.estimate is None or y.estimate is None:
        return []
    points = [(x.estimate, y.estimate)]
    for step in range(steps + 1):
        share = step / steps
        if x.low is not None and x.high is not None:
            points.append((x.low + share * (x.high - x.low), y.estimate))
        if y.low is not None and y.high is not None:
            points.append((x.estimate, y.low + share * (y.high - y.low)))
    return [point for point in points if all(map(math.isfinite, point))]
