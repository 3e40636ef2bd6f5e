"""Figures of the positive control: every component's importance, planted ones marked, and what rankings find."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from backtracking_assets.reporting.drawing import BASELINE_DASHES, NARROW, WIDE
from backtracking_assets.reporting.layout import GridLayout
from backtracking_assets.reporting.positive_control_contents import ControlResults
from backtracking_assets.reporting.positive_control_verdict import MAIN_MODE
from backtracking_assets.reporting.style import INK, MUTED, PALETTE, house_style, series_style

_KINDS = {"attention": "Attention", "mlp": "MLP"}
_LABEL_GAP = 5
"""Points between a mark and the layer's number."""
_LINEAR = 0.05
"""The axis is logarithmic beyond this: what breaks the model would make all else look like nothing."""
_TICKS = (-100, -10, -1, -0.1, 0, 0.1, 1, 10, 100)


@house_style()
def importance_figure(results: ControlResults, narrow: bool = False) -> Figure:
    """Importance by layer and by the study's own criterion; planted components are squares, causal ones filled."""
    frame = _of(results.components, results.criterion, MAIN_MODE)
    figure = Figure(figsize=(NARROW, 5.2) if narrow else (WIDE, 3.4), layout=GridLayout())
    panels = figure.subplots(2 if narrow else 1, 1 if narrow else 2, sharey=True, squeeze=False).ravel()
    k = int(frame["causal"].sum() or frame["planted"].sum())
    for axes, (kind, title) in zip(panels, _KINDS.items(), strict=True):
        own = frame[frame["component"] == kind].sort_values("layer")
        _draw_importance(axes, own)
        axes.set(title=title, xlabel="layer")
        axes.set_yscale("symlog", linthresh=_LINEAR, linscale=0.6)
        axes.yaxis.set_major_locator(FixedLocator(_TICKS))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
        if k < len(frame):
            ordered = frame.sort_values("rank")["importance"]
            cut = (float(ordered.iloc[k - 1]) + float(ordered.iloc[k])) / 2
            axes.axhline(cut, color=MUTED, linewidth=0.8, linestyle=BASELINE_DASHES, zorder=0.7)
    for axes in panels[:: 1 if narrow else 2]:
        axes.set_ylabel(results.labels.get(results.criterion, results.criterion))
    figure.legend(handles=_importance_handles(k), loc="outside lower center", ncols=1 if narrow else 4)
    return figure


@house_style()
def precision_recall_figure(results: ControlResults, narrow: bool = False) -> Figure:
    """Precision against recall of what is causal, a line for each criterion, scaled to zero."""
    figure = Figure(figsize=(NARROW, 4.4) if narrow else (0.72 * WIDE, 3.8), layout=GridLayout())
    axes = figure.subplots()
    curves: dict[tuple[bool, ...], list[str]] = {}
    for measure in results.labels:
        own = _of(results.components, measure, MAIN_MODE).sort_values("rank")
        hits = tuple(bool(hit) for hit in own["causal"])
        if any(hits):
            curves.setdefault(hits, []).append(measure)
    share, handles = None, []
    for number, (hits, measures) in enumerate(curves.items()):
        share = sum(hits) / len(hits)
        main = results.criterion in measures
        color, marker = series_style(number)
        points = recall_and_precision(hits)
        found = [point for point, hit in zip(points, hits, strict=False) if hit]
        width = 2.2 if main else 1.1
        axes.plot(*zip(*points, strict=True), color=color, linewidth=width, zorder=2 + main)
        axes.plot(*zip(*found, strict=True), marker, color=color, markersize=5 if main else 3.5, zorder=3 + main)
        names = [
            f"{results.labels[name]} (the study's own)" if name == results.criterion else results.labels[name]
            for name in measures
        ]
        label = "\n".join(names)  # criteria that find the causal components at the same ranks share a line
        handles.append(Line2D([], [], color=color, marker=marker, markersize=4, linewidth=width, label=label))
    if share is not None:
        axes.axhline(share, color=INK, linewidth=1, linestyle=BASELINE_DASHES, zorder=0.7)
        handles.append(Line2D([], [], color=INK, linewidth=1, linestyle=BASELINE_DASHES, label="a random order"))
    axes.set(xlim=(0, 1.03), ylim=(0, 1.05), xlabel="recall of the causal components", ylabel="precision")
    axes.grid(True)
    figure.legend(handles=handles, loc="outside lower center", ncols=1 if narrow else 2)
    return figure


def recall_and_precision(hits: Sequence[bool]) -> list[tuple[float, float]]:
    """Recall and precision behind each component of a ranking, as far as the last one that is true."""
    points, found = [], 0
    for rank, hit in enumerate(hits, start=1):
        found += hit
        points.append((found / sum(hits), found / rank))
        if found == sum(hits):
            break
    return points


def _of(frame: pd.DataFrame, measure: str, mode: str) -> pd.DataFrame:
    return frame[(frame["measure"] == measure) & (frame["mode"] == mode)]


def _draw_importance(axes: Axes, own: pd.DataFrame) -> None:
    axes.grid(True, axis="y")
    axes.axhline(0, color=MUTED, linewidth=0.8, zorder=0.6)
    planted = set(own.loc[own["planted"], "layer"])
    for row in own.to_dict("records"):
        color = PALETTE[1] if row["planted"] else MUTED
        axes.vlines(row["layer"], 0, row["importance"], color=color, linewidth=1.2, zorder=1)
        axes.plot(
            row["layer"],
            row["importance"],
            "s" if row["planted"] else "o",
            color=color,
            markersize=6 if row["planted"] else 4,
            markerfacecolor="white" if not row["causal"] else color,
            zorder=2,
        )
        if row["planted"]:
            axes.annotate(
                str(row["layer"]),
                (row["layer"], row["importance"]),
                (0, _LABEL_GAP),
                textcoords="offset points",
                # Numbers of neighboring layers lean away from each other.
                ha="right"
                if planted & _near(row["layer"], 1)
                else "left"
                if planted & _near(row["layer"], -1)
                else "center",
                fontsize=7,
                color=INK,
            )


def _near(layer: int, direction: int) -> set[int]:
    return {layer + direction, layer + 2 * direction}


def _importance_handles(k: int) -> list[Line2D]:
    def mark(marker: str, color: str, filled: bool, label: str) -> Line2D:
        face = color if filled else "white"
        return Line2D([], [], linestyle="none", marker=marker, color=color, markerfacecolor=face, label=label)

    return [
        mark("s", PALETTE[1], True, "planted and causal"),
        mark("s", PALETTE[1], False, "planted, not causal"),
        mark("o", MUTED, False, "not planted"),
        Line2D([], [], color=MUTED, linewidth=0.8, linestyle=BASELINE_DASHES, label=f"above it: the first {k}"),
    ]
