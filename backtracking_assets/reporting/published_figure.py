"""The figure of published beside measured: pairs of points, a row for each cell of each imported run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from backtracking_assets.measures import MEASURES
from backtracking_assets.reporting.drawing import NARROW, WIDE, Look, Point, draw_points, estimate_of, name_rows, reach
from backtracking_assets.reporting.layout import GridLayout
from backtracking_assets.reporting.style import GRID, MUTED, PALETTE, house_style

if TYPE_CHECKING:
    from backtracking_assets.reporting.published import Pair

_ROW_INCHES = 0.3
_MEASURED, _PUBLISHED = PALETTE[0], PALETTE[1]


@house_style()
def published_figure(pairs: Sequence["Pair"], narrow: bool = False) -> Figure:
    """One panel a measure; each row joins the published point to the measured one.

    Raises:
        ValueError: a pair has no measured value.
    """
    if any(pair.measured is None or pair.measured.estimate is None for pair in pairs):
        raise ValueError("every pair of the figure needs a measured value")
    measures = [name for name in MEASURES if any(pair.published.measure == name for pair in pairs)]
    several = len({pair.published.run_id for pair in pairs}) > 1
    names = list(dict.fromkeys(_row_name(pair, several) for pair in pairs))
    height = _ROW_INCHES * (len(names) + 1) + 0.4
    size = (NARROW, len(measures) * (height + 0.3) + 0.7) if narrow else (WIDE, height + 0.8)
    figure = Figure(figsize=size, layout=GridLayout())
    grid = figure.subplots(len(measures) if narrow else 1, 1 if narrow else len(measures), squeeze=False).ravel()
    for place, (axes, measure) in enumerate(zip(grid, measures, strict=True)):
        own = {_row_name(pair, several): pair for pair in pairs if pair.published.measure == measure}
        _draw(axes, measure, names, own, named=narrow or not place)
    figure.legend(handles=_handles(), loc="outside lower center", ncols=1 if narrow else 3)
    return figure


def _row_name(pair: "Pair", several: bool) -> str:
    return f"{pair.name} ({pair.published.run_id})" if several else pair.name


def _draw(axes: Axes, measure: str, names: Sequence[str], own: dict[str, "Pair"], named: bool) -> None:
    axes.set_title(MEASURES[measure].label)
    axes.grid(True, axis="x")
    points: list[Point] = []
    for row, name in enumerate(names):
        pair = own.get(name)
        measured = None if pair is None else pair.measured
        estimate = estimate_of(measured)
        if pair is None or measured is None or estimate is None:
            axes.text(0.01, row, "not published", color=MUTED, style="italic", va="center", fontsize=7)
            continue
        published = pair.published
        axes.plot([estimate, published.value], [row, row], color=GRID, linewidth=2.5, zorder=0.8)
        points.append(Point(estimate, row, Look(_MEASURED, "o"), reach(measured)))
        marker = "X" if published.known_fault else "D"
        points.append(Point(published.value, row, Look(_PUBLISHED, marker, hollow=True)))
    draw_points(axes, points)
    name_rows(axes, range(len(names)), names if named else [])
    axes.set(ylim=(len(names) - 0.4, -0.6), xlim=(-0.03, 1.03))


def _handles() -> list[Line2D]:
    def point(color: str, marker: str, face: str, label: str) -> Line2D:
        return Line2D([], [], color=color, marker=marker, mfc=face, markersize=6, linestyle="none", label=label)

    return [
        point(_MEASURED, "o", _MEASURED, "measured here"),
        point(_PUBLISHED, "D", "white", "published"),
        point(_PUBLISHED, "X", "white", "published, known fault"),
    ]
