"""The figures of phase 1's scan: the logit lens by layer, heat strips of every component, the components selected."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter, NullLocator

from backtracking_assets.reporting.drawing import NARROW, WIDE, Look, Point, draw_points, reach_of
from backtracking_assets.reporting.layout import GridLayout
from backtracking_assets.reporting.style import INK, MUTED, PALETTE, house_style
from backtracking_assets.scan_records import EMBEDDING, MODES

_EVENTS, _CONTROLS = PALETTE[1], PALETTE[0]
_KINDS = ("attention", "mlp")
_MODE_NAMES = {"zero": "to 0", "mean": "to mean"}
_MOST_SHOWN = 12
"""Components of each kind in the figure of the selection, and more where more are selected."""
_LINEAR_UP_TO = 0.1
"""Colors are linear up to this share of the scale's end, and logarithmic beyond, so that small effects show."""
_CLIPPED_ABOVE = 0.97
"""The color scale ends at this quantile of all absolute values: one component that breaks the model would bleach all
others."""


@dataclass(frozen=True)
class _Strip:
    """One quantity of every component."""

    title: str
    kind: str
    measure: str
    sign: int
    """-1 turns a change into a loss."""


STRIPS = (
    _Strip("Loss of the trigger's log-probability, at events", "event", "trigger_log_probability", -1),
    _Strip("Loss of the drawn token's, at matched positions", "control", "ordinary_log_probability", -1),
    _Strip("Specific drop: the first minus the second, in pairs", "event", "specific_drop", 1),
)


@house_style()
def lens_figure(summaries: pd.DataFrame, narrow: bool = False) -> Figure:
    """Logit, log-probability and rank of the onset token after every layer; events and matched positions with bands.

    Args:
        summaries: rows of `scan_records.LENS_SUMMARIES`.
    """
    panels = (
        ("onset_logit", "Logit of the onset token"),
        ("onset_log_probability", "Its log-probability (nats)"),
        ("onset_rank", "Its rank (1 is the most probable)"),
    )
    size = (NARROW, 7.2) if narrow else (WIDE, 3.1)
    figure = Figure(figsize=size, layout=GridLayout())
    grid = figure.subplots(3 if narrow else 1, 1 if narrow else 3, squeeze=False).ravel()
    for axes, (measure, title) in zip(grid, panels, strict=True):
        own = summaries[summaries["measure"] == measure].sort_values("layer")
        layers = own["layer"].to_numpy(dtype=np.int64)
        for prefix, color, dashes in (("control", _CONTROLS, (0, (4, 2))), ("event", _EVENTS, "-")):
            columns = (f"{prefix}_{name}" for name in ("estimate", "low", "high"))
            middle, low, high = (own[name].to_numpy(dtype=np.float64) for name in columns)
            if measure == "onset_rank":  # a mean may be near 1 and its symmetric interval below it
                low = np.maximum(low, 1.0)
            axes.fill_between(layers, low, high, color=color, alpha=0.18, linewidth=0)
            axes.plot(layers, middle, color=color, linestyle=dashes, linewidth=1.4)
        axes.set_title(title)
        axes.grid(True, axis="y")
        if measure == "onset_rank":
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.invert_yaxis()
        _layer_ticks(axes, layers)
    handles = [
        Line2D([], [], color=_EVENTS, linewidth=1.4, label="events"),
        Line2D([], [], color=_CONTROLS, linewidth=1.4, linestyle=(0, (4, 2)), label="matched positions without one"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=1 if narrow else 2)
    return figure


def _layer_ticks(axes: Axes, layers: npt.NDArray[np.int64]) -> None:
    last = int(layers.max())
    step = max(round(last / 6), 1)
    ticks = [EMBEDDING, *range(step, last + 1, step)]
    axes.set(xticks=ticks, xticklabels=["emb." if tick == EMBEDDING else str(tick) for tick in ticks])
    axes.set_xlabel("after layer")


@house_style()
def scan_figure(summaries: pd.DataFrame, selected: frozenset[tuple[str, int]], narrow: bool = False) -> Figure:
    """Heat strips over the layers: what is lost at events, what is lost elsewhere, and the specific drop.

    Args:
        summaries: rows of `scan_records.COMPONENT_SUMMARIES`.
        selected: pairs (kind, layer) that are framed.
    """
    rows = [(kind, mode) for kind in _KINDS for mode in MODES]
    values = [_grid(summaries, strip, rows) for strip in STRIPS]
    end = float(np.nanquantile(np.abs(np.concatenate([v.ravel() for v in values])), _CLIPPED_ABOVE)) or 1.0
    norm = SymLogNorm(linthresh=_LINEAR_UP_TO * end, vmin=-end, vmax=end, base=10)
    n_layers = values[0].shape[1]
    size = (NARROW, 1.9 + 0.16 * n_layers) if narrow else (WIDE, 4.6)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(1 if narrow else 3, 3 if narrow else 1, squeeze=False).ravel()
    for number, (axes, strip, found) in enumerate(zip(grid, STRIPS, values, strict=True)):
        shown = found.T if narrow else found
        axes.imshow(shown, cmap="RdBu_r", norm=norm, aspect="auto", interpolation="nearest")
        names = [f"{kind} {_MODE_NAMES[mode]}" for kind, mode in rows]
        if narrow:
            axes.set_title("ABC"[number])
            axes.set_xticks(range(len(rows)), names, rotation=90)
            axes.set_yticks(range(0, n_layers, 3), [str(layer) for layer in range(0, n_layers, 3)])
            axes.set_ylabel("layer" if number == 0 else "")
        else:
            axes.set_title(f"{'ABC'[number]}. {strip.title}")
            axes.set_yticks(range(len(rows)), names)
            axes.set_xticks(range(0, n_layers, 3), [str(layer) for layer in range(0, n_layers, 3)])
            axes.set_xlabel("layer" if number == len(STRIPS) - 1 else "")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        _frame(axes, rows, selected, narrow)
    bar = figure.colorbar(
        ScalarMappable(norm, "RdBu_r"),
        ax=list(grid),
        orientation="horizontal" if narrow else "vertical",
        extend="both",
        shrink=0.8,
        pad=0.02,
        aspect=30,
    )
    ticks = [-end, -0.3 * end, -0.1 * end, 0.0, 0.1 * end, 0.3 * end, end]
    bar.set_ticks(ticks, labels=[f"{tick:.1g}".replace("-", "−") for tick in ticks])
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.set_label("nats lost" if narrow else "nats; red is a loss")
    return figure


def _grid(summaries: pd.DataFrame, strip: _Strip, rows: Sequence[tuple[str, str]]) -> npt.NDArray[np.float64]:
    """The strip's means, `[rows, layers]`; NaN where nothing was measured."""
    own = summaries[(summaries["kind"] == strip.kind) & (summaries["measure"] == strip.measure)]
    n_layers = int(summaries["layer"].max()) + 1
    found = np.full((len(rows), n_layers), np.nan)
    places = {row: number for number, row in enumerate(rows)}
    for kind, mode, layer, estimate in zip(own["component"], own["mode"], own["layer"], own["estimate"], strict=True):
        found[places[kind, mode], layer] = strip.sign * estimate
    return found


def _frame(axes: Axes, rows: Sequence[tuple[str, str]], selected: frozenset[tuple[str, int]], narrow: bool) -> None:
    for kind, layer in sorted(selected):
        first = [row[0] for row in rows].index(kind)
        corner = (first - 0.5, layer - 0.5) if narrow else (layer - 0.5, first - 0.5)
        width, height = (len(MODES), 1) if narrow else (1, len(MODES))
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=INK, linewidth=1.0))


@house_style()
def selection_figure(selection: pd.DataFrame, narrow: bool = False) -> Figure:
    """The best components of each kind with their intervals, and how often each is selected.

    Args:
        selection: rows of `scan_records.SELECTED_COMPONENTS`.
    """
    top = int(selection["selected"].groupby(selection["component"]).sum().max())
    most = max(_MOST_SHOWN, top)
    height = 0.25 * min(most, len(selection) // 2) + 1.0
    figure = Figure(figsize=(NARROW, 2 * height) if narrow else (WIDE, height), layout=GridLayout())
    grid = figure.subplots(2 if narrow else 1, 1 if narrow else 2, squeeze=False).ravel()
    for axes, kind, color in zip(grid, _KINDS, (PALETTE[0], PALETTE[2]), strict=True):
        own = selection[selection["component"] == kind].sort_values("rank").head(most)
        points: list[Point] = []
        for place, row in enumerate(own.to_dict("records")):
            score = float(row["score"])
            low, high = (None if pd.isna(row[end]) else float(row[end]) for end in ("low", "high"))
            look = Look(color if row["selected"] else MUTED, "o", hollow=not row["selected"])
            points.append(Point(score, place, look, reach_of(score, low, high)))
            axes.annotate(
                f"{float(row['selected_share']):.0%}",
                (1.0, place),
                xycoords=axes.get_yaxis_transform(),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                color=INK if row["selected"] else MUTED,
            )
        draw_points(axes, points)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.grid(True, axis="x")
        axes.set(yticks=range(len(own)), yticklabels=[f"layer {layer}" for layer in own["layer"]])
        axes.invert_yaxis()
        axes.set_title(f"{'MLP' if kind == 'mlp' else 'Attention'}; right: share of resamples")
        axes.set_xlabel("specific drop (nats)")
    return figure
