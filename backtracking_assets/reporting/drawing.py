"""The marks that all figures share: points with intervals, the baseline, legend entries, axes that start at zero."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
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


Reach = tuple[float, float]
"""Distances from an estimate to the lower and the upper end of its interval."""


def reach(value: Measurement) -> Reach | None:
    """How far its interval goes; None without an estimate or an interval."""
    return reach_of(value.estimate, value.low, value.high)


def reach_of(estimate: float | None, low: float | None, high: float | None) -> Reach | None:
    """How far an interval goes from its estimate; None where one of the three is not there."""
    if estimate is None or low is None or high is None:
        return None
    # An interval by another method than the estimate's may miss it by a rounding error; a length is never negative.
    return max(estimate - low, 0.0), max(high - estimate, 0.0)


@dataclass(frozen=True)
class Look:
    """How a point is drawn. `marker` may be `none` for its intervals alone."""

    color: str
    marker: str
    size: float = 5.5
    hollow: bool = False
    cap: float = 2.5
    line_width: float = 1.1
    edge: str | None = None
    alpha: float = 1.0


@dataclass(frozen=True)
class Point:
    """A point with the intervals given."""

    x: float
    y: float
    look: Look
    x_reach: Reach | None = None
    y_reach: Reach | None = None


def draw_points(axes: Axes, points: Iterable[Point]) -> None:
    """All points of an axes; those of one look at once, whiskers below all marks.

    `Axes.errorbar` does the same in three times the time: it makes three artists more, and checks what is sure here.
    """
    alike: dict[Look, list[Point]] = {}
    for point in points:
        alike.setdefault(point.look, []).append(point)
    for look, own in alike.items():
        _draw_whiskers(axes, look, own)
        if look.marker != "none":
            marks = Line2D(
                [point.x for point in own],
                [point.y for point in own],
                linestyle="none",
                color=look.color,
                marker=look.marker,
                markersize=look.size,
                markerfacecolor="white" if look.hollow else look.color,
                markeredgecolor=look.edge or look.color,
                alpha=look.alpha,
                zorder=2.1,
            )
            axes.add_line(marks)
    axes.autoscale_view()


def _draw_whiskers(axes: Axes, look: Look, points: Sequence[Point]) -> None:
    across = [((p.x - p.x_reach[0], p.y), (p.x + p.x_reach[1], p.y)) for p in points if p.x_reach is not None]
    upward = [((p.x, p.y - p.y_reach[0]), (p.x, p.y + p.y_reach[1])) for p in points if p.y_reach is not None]
    if not across and not upward:
        return
    axes.add_collection(
        LineCollection([*across, *upward], colors=look.color, linewidths=look.line_width, alpha=look.alpha, zorder=2)
    )
    for whiskers, marker in ((across, "|"), (upward, "_")):
        if whiskers and look.cap:
            x, y = zip(*(end for whisker in whiskers for end in whisker), strict=True)
            caps = Line2D(
                x,
                y,
                linestyle="none",
                color=look.color,
                marker=marker,
                markersize=2 * look.cap,
                markeredgewidth=look.line_width,
                alpha=look.alpha,
                zorder=2,
            )
            axes.add_line(caps)


def name_rows(axes: Axes, places: Sequence[float], names: Sequence[str]) -> None:
    """Names at the left of rows, without tick marks; none where the axes beside it has them."""
    axes.tick_params(axis="y", left=False, length=0, labelleft=bool(names))
    if names:
        axes.set_yticks(places, names)


def share_ticks(axes: Axes) -> None:
    """Ticks of an axis of shares: where they are known, the layout need not look at them twice."""
    axes.set_xticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])


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
