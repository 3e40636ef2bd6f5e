"""What the noise that a cell shares with the baseline buys, as a table."""

from statistics import median

from backtracking_assets.measures import MEASURES
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.reporting.formats import NOT_MEASURED, join_names
from backtracking_assets.reporting.measured import Comparison, SweepIndex
from backtracking_assets.reporting.tables import Column, TextTable


def shared_noise_table(index: SweepIndex) -> TextTable | None:
    """The variance ratio of each compared cell in the leading measures; None where no cell has one."""
    measures = list(dict.fromkeys((index.primary, MEASURES["strict_rate"], MEASURES["accuracy"])))
    cells = [
        cell
        for cell in index.planned
        if cell.scale != BASELINE_SCALE
        and any(_ratio(index.comparison(cell, measure.name)) is not None for measure in measures)
    ]
    if not cells:
        return None
    columns = (Column("subset", "left"), Column("scale", "right"), *(Column(m.label, "right") for m in measures))
    rows = tuple(
        (
            cell.layer_subset,
            f"{cell.scale:g}",
            *(_format(index.comparison(cell, measure.name)) for measure in measures),
        )
        for cell in cells
    )
    return TextTable(columns, rows)


def shared_noise_summary(index: SweepIndex) -> str:
    """The median ratio of each leading measure in one sentence; empty where there is none."""
    parts: list[str] = []
    for measure in dict.fromkeys((index.primary, MEASURES["strict_rate"], MEASURES["accuracy"])):
        ratios = [
            ratio
            for cell in index.planned
            if cell.scale != BASELINE_SCALE and (ratio := _ratio(index.comparison(cell, measure.name))) is not None
        ]
        if ratios:
            parts.append(f"{median(ratios):.2f} of “{measure.label}” ({min(ratios):.2f} to {max(ratios):.2f})")
    if not parts:
        return ""
    return f"Over the cells, the median ratio is {join_names(parts)}."


def _ratio(comparison: Comparison | None) -> float | None:
    return None if comparison is None else comparison.variance_ratio


def _format(comparison: Comparison | None) -> str:
    if comparison is None or comparison.variance_ratio is None:
        return NOT_MEASURED
    text = f"{comparison.variance_ratio:.2f}"
    if comparison.variance_ratio_low is None or comparison.variance_ratio_high is None:
        return text
    return f"{text} [{comparison.variance_ratio_low:.2f}, {comparison.variance_ratio_high:.2f}]"
