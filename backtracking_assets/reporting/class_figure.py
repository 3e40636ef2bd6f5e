"""The figure of the classes: what share of each cell's completions backtracks genuinely, silently, by filler, not."""

from collections.abc import Callable, Sequence

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from backtracking_assets.measures import MEASURES
from backtracking_assets.reporting.drawing import NARROW, WIDE, name_rows, note_figure, share_ticks
from backtracking_assets.reporting.layout import GridLayout
from backtracking_assets.reporting.measured import Measurement
from backtracking_assets.reporting.style import INK, MUTED, PALETTE, house_style

_PARTS = (
    ("genuine_share", PALETTE[0], ""),
    ("silent_share", PALETTE[5], "//"),
    ("filler_share", PALETTE[1], ""),
    ("neither_share", "#e3e6ea", ""),
    ("degenerate_share", MUTED, "xx"),
)
"""Measures that exclude one another, with color and hatch; what is left to 1 was cut off at the token cap."""

_CUT_OFF = ("cut off behind a trigger", "#ffffff", "..")
_LEAST = 0.0005
"""A remainder below it comes from rounding."""

Row = tuple[str, Callable[[str], Measurement | None]]
"""A label, and the cell's measurement by the measure's name."""


@house_style()
def class_bars(rows: Sequence[Row], narrow: bool = False) -> Figure:
    """One bar for each row, stacked by class; a row that is not measured says so."""
    if not rows:
        return note_figure("No cell has been measured yet.", narrow)
    figure = Figure(
        figsize=(NARROW if narrow else WIDE, 0.34 * len(rows) + (1.5 if narrow else 1.0)), layout=GridLayout()
    )
    axes = figure.subplots()
    bars: dict[tuple[str, str, str], list[tuple[int, float, float]]] = {}
    cut_off = (_CUT_OFF[1], _CUT_OFF[2], INK)
    for y, (_, value) in enumerate(rows):
        left = 0.0
        shares = [(name, found.estimate) for name, _, _ in _PARTS if (found := value(name)) is not None]
        if len(shares) < len(_PARTS) or any(share is None for _, share in shares):
            axes.text(0.01, y, "not measured", color=MUTED, style="italic", va="center", fontsize=8)
            continue
        for (_, share), (_, color, hatch) in zip(shares, _PARTS, strict=True):
            assert share is not None
            bars.setdefault((color, hatch, "white"), []).append((y, share, left))
            left += share
        if 1 - left > _LEAST:
            bars.setdefault(cut_off, []).append((y, 1 - left, left))
    for (color, hatch, edge), parts in bars.items():
        places, shares, lefts = zip(*parts, strict=True)
        axes.barh(places, shares, 0.66, lefts, color=color, hatch=hatch, edgecolor=edge, linewidth=0.4)
    name_rows(axes, range(len(rows)), [label for label, _ in rows])
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5), xlabel="share of completions")
    share_ticks(axes)
    handles: list[Artist] = [
        Patch(facecolor=color, hatch=hatch, edgecolor="white", label=MEASURES[name].label)
        for name, color, hatch in _PARTS
    ]
    if cut_off in bars:
        handles.append(Patch(facecolor=_CUT_OFF[1], hatch=_CUT_OFF[2], edgecolor=INK, label=_CUT_OFF[0]))
    figure.legend(handles=handles, loc="outside lower center", ncols=2 if narrow else 3)
    return figure
