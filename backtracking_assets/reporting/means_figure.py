"""The figure of the means: how much of each block's output is the same at every position."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from backtracking_assets.reporting.drawing import WIDE
from backtracking_assets.reporting.layout import GridLayout
from backtracking_assets.reporting.style import house_style, series_style


@house_style()
def means_figure(shares: Mapping[str, float]) -> Figure:
    """The share by layer, attention and MLP apart; `shares` by component, such as `attention.15`."""
    figure = Figure(figsize=(WIDE, 2.6), layout=GridLayout())
    axes = figure.add_subplot()
    for index, (kind, name) in enumerate((("attention", "attention"), ("mlp", "MLP"))):
        points = sorted(
            (int(key.partition(".")[2]), share) for key, share in shares.items() if key.startswith(f"{kind}.")
        )
        color, marker = series_style(index)
        axes.plot([x for x, _ in points], [y for _, y in points], color=color, marker=marker, ms=4, lw=1, label=name)
    axes.set_ylim(0, 1)
    axes.set_xlabel("layer")
    axes.set_title("Squared length of the mean output over the mean squared length of the outputs")
    axes.grid(axis="y")
    axes.legend()
    return figure
