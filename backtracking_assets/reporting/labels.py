"""Placing labels beside points without covering points, whiskers or each other, as far as there is room."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

_DIRECTIONS = tuple(math.radians(degrees) for degrees in (45, 315, 135, 225, 0, 180, 90, 270))
_DISTANCES = (6, 12, 20, 30, 42, 56)
"""Points between a label and its point; from the fourth on, a line leads to it."""
_LEADER_FROM = 20
_N_NEAR = 2 * len(_DIRECTIONS)
"""Places near enough for a label that is not needed: those without a line."""


@dataclass(frozen=True)
class PointLabel:
    """A label of a point in data coordinates."""

    text: str
    x: float
    y: float
    color: str
    needed: bool = True
    """Whether it must be shown even where it cannot be free of others; one that is not needed is dropped."""


def place_labels(axes: Axes, labels: Sequence[PointLabel], obstacles: Sequence[tuple[float, float]]) -> int:
    """Write labels beside their points, in the order given, each at the first free place around its point.

    `obstacles` are points in data coordinates that no label may cover. The limits of the axes and the layout of the
    figure must be settled before. Returns how many labels were dropped for want of room.
    """
    figure = axes.get_figure(root=True)
    if not isinstance(figure, Figure):
        raise TypeError("The axes belong to no figure.")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    scale = figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    taken = _Taken([_around(_pixels(axes, *point), 2 * scale) for point in obstacles])
    dropped = 0
    for label in labels:
        text = axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7.5,
            color=label.color,
            annotation_clip=False,
        )
        box = text.get_window_extent(renderer)
        anchor = _pixels(axes, label.x, label.y)
        offsets = [_offset(box, angle, distance * scale) for distance in _DISTANCES for angle in _DIRECTIONS]
        tried = enumerate(offsets if label.needed else offsets[:_N_NEAR])
        free = next((found for found in tried if _is_free(box.translated(*found[1]), frame, taken)), None)
        if free is None and not label.needed:
            text.remove()
            dropped += 1
            continue
        number, offset = free or (0, offsets[0])
        text.set_position((offset[0] / scale, offset[1] / scale))
        taken.add(box.translated(*offset))
        if _DISTANCES[number // len(_DIRECTIONS)] >= _LEADER_FROM:
            end_x, end_y = _nearest_edge(box.translated(*offset), anchor)
            axes.annotate(
                "",
                (label.x, label.y),
                xytext=((end_x - anchor[0]) / scale, (end_y - anchor[1]) / scale),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": label.color, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
            )
    return dropped


def _pixels(axes: Axes, x: float, y: float) -> tuple[float, float]:
    across, up = axes.transData.transform((x, y))
    return float(across), float(up)


def _around(center: tuple[float, float], radius: float) -> Bbox:
    x, y = center
    return Bbox.from_extents(x - radius, y - radius, x + radius, y + radius)


def _offset(box: Bbox, angle: float, distance: float) -> tuple[float, float]:
    """How far a centered label must move, in pixels, to lie `distance` from its point in a direction."""
    return (
        math.cos(angle) * (distance + box.width / 2),
        math.sin(angle) * (distance + box.height / 2),
    )


class _Taken:
    """Boxes that are taken, kept as numbers: thousands are asked about for each label."""

    def __init__(self, boxes: Sequence[Bbox]) -> None:
        self._corners = np.array([box.extents for box in boxes]).reshape(-1, 4)

    def add(self, box: Bbox) -> None:
        self._corners = np.vstack([self._corners, box.extents])

    def overlap(self, box: Bbox) -> bool:
        """Whether any of them overlaps the box; one that only touches it does."""
        left, low, right, high = self._corners.T
        x0, y0, x1, y1 = box.extents
        return bool(((left <= x1) & (right >= x0) & (low <= y1) & (high >= y0)).any())


def _is_free(box: Bbox, frame: Bbox, taken: _Taken) -> bool:
    inside = box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1
    return inside and not taken.overlap(box)


def _nearest_edge(box: Bbox, point: tuple[float, float]) -> tuple[float, float]:
    x, y = point
    return min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)
