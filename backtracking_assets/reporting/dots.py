"""Figures of named rows and panels: a dot with its interval in each row, beside a reference where there is one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

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

_ROW_INCHES = 0.3
_FRAME_INCHES = 0.85
_MOST_SIDE_BY_SIDE = 4

Axis = Literal["share", "difference", "free"]
"""From 0 to 1; around a line at 0; or as the dots need it, from 0."""


@dataclass(frozen=True)
class Dot:
    """One estimate with its interval; nothing is drawn but the word `none` where there is no estimate."""

    row: int
    estimate: float | None
    low: float | None
    high: float | None
    style: int = 0
    """Color and marker; see `style.series_style`."""
    hollow: bool = False
    offset: float = 0.0
    """Rows by which it stands below the middle of its row."""


@dataclass(frozen=True)
class DotPanel:
    title: str
    dots: tuple[Dot, ...]
    axis: Axis = "share"
    reference: Dot | None = None
    """Drawn as a dashed line through all rows, its interval as a band."""


@dataclass(frozen=True)
class DotLegend:
    """What a mark stands for."""

    label: str
    hollow: bool
    style: int | None = None
    """None where marks of all styles have this meaning."""


@house_style()
def dot_figure(
    labels: Sequence[str], panels: Sequence[DotPanel], legend: Sequence[DotLegend] = (), narrow: bool = False
) -> Figure:
    """Panels side by side over the same rows, or one below the other where narrow."""
    own_height = _ROW_INCHES * len(labels) + _FRAME_INCHES
    across = 1 if narrow else min(len(panels), _MOST_SIDE_BY_SIDE)
    down = -(-len(panels) // across)
    legend_height = 0.25 * (len(legend) if narrow else 1) if legend else 0.0
    figure = Figure(figsize=(NARROW if narrow else WIDE, down * own_height + legend_height), layout=GridLayout())
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for position, axes in enumerate(grid):
        if position >= len(panels):
            axes.set_visible(False)
            continue
        _draw(axes, panels[position], labels, named=not position % across)
    if legend:
        figure.legend(handles=[_handle(entry) for entry in legend], loc="outside lower center", ncols=across)
    return figure


def _draw(axes: Axes, panel: DotPanel, labels: Sequence[str], named: bool) -> None:
    axes.set_title(panel.title)
    axes.grid(True, axis="x")
    if panel.axis == "difference":
        axes.axvline(0, color=INK, linewidth=0.8, zorder=0.7)
    reference = panel.reference
    if reference is not None and reference.estimate is not None:
        if reference.low is not None and reference.high is not None:
            axes.axvspan(reference.low, reference.high, color=BAND, zorder=0.6, linewidth=0)
        axes.axvline(reference.estimate, color=INK, linewidth=1, linestyle=BASELINE_DASHES, zorder=0.7)
    left, right = _limits(panel)
    points: list[Point] = []
    for dot in panel.dots:
        color, marker = series_style(dot.style)
        place = dot.row + dot.offset
        if dot.estimate is None:
            axes.text(left, place, " none", color=MUTED, style="italic", va="center", fontsize=7)
            continue
        look = Look(color, marker, size=5, hollow=dot.hollow, cap=2)
        points.append(Point(dot.estimate, place, look, reach_of(dot.estimate, dot.low, dot.high)))
    draw_points(axes, points)
    name_rows(axes, range(len(labels)), labels if named else [])
    axes.set(ylim=(len(labels) - 0.4, -0.6), xlim=(left, right))


def _limits(panel: DotPanel) -> tuple[float, float]:
    if panel.axis == "share":
        return -0.02, 1.02
    ends = [end for dot in panel.dots for end in (dot.estimate, dot.low, dot.high) if end is not None]
    if panel.axis == "free":
        return 0.0, max(ends, default=1.0) * 1.06 or 1.0
    widest = max(map(abs, ends), default=0.1) * 1.15 or 0.1
    return -widest, widest


def _handle(entry: DotLegend) -> Line2D:
    color, marker = (MUTED, "o") if entry.style is None else series_style(entry.style)
    face = "white" if entry.hollow else color
    return Line2D([], [], color=color, marker=marker, mfc=face, markersize=5, linestyle="none", label=entry.label)
