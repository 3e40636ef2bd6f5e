"""Filling the report's comparison of layer subsets with the control that only scales the odds of trigger words."""

from collections.abc import Sequence

from backtracking_assets.analysis.equal_rate import compare_at_equal_rate
from backtracking_assets.assets.comparing import counted_rows
from backtracking_assets.assets.stored_cells import StoredCell
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment import Experiment
from backtracking_assets.layer_subsets import TRIGGER_LOGITS
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.reporting.contents import EqualRateSection


def equal_rate_section(
    experiment: Experiment, stored: Sequence[StoredCell], baseline: StoredCell | None, rate_measure: str | None
) -> EqualRateSection:
    """Every targeted subset at its lowest scale that is there, at the rate that it has; or why that is not possible."""
    planned = [cell for cell in experiment.planned_cells() if cell.scale < BASELINE_SCALE]
    if all(cell.layer_subset != TRIGGER_LOGITS for cell in planned):
        return EqualRateSection(())
    control = [cell for cell in stored if cell.cell.layer_subset == TRIGGER_LOGITS and cell.cell.scale < BASELINE_SCALE]
    lowest: dict[str, StoredCell] = {}
    for cell in sorted(stored, key=lambda cell: cell.cell.scale):
        if cell.cell.layer_subset in experiment.layer_subsets and cell.cell.scale < BASELINE_SCALE:
            lowest.setdefault(cell.cell.layer_subset, cell)
    targeted = [lowest[name] for name in experiment.layer_subsets if name in lowest]
    if not control or not targeted or baseline is None:
        return EqualRateSection((), f"Cells of {TRIGGER_LOGITS}, of a targeted subset or of the baseline are missing.")
    try:
        found = compare_at_equal_rate(
            counted_rows(baseline.opened, targeted),
            [cell.rows for cell in control],
            baseline.rows,
            rate_measure=rate_measure or "strict_rate",
            statistics=experiment.statistics,
        )
    except BacktrackingError as error:
        return EqualRateSection((), str(error))
    place = {cell.cell: number for number, cell in enumerate(targeted)}
    return EqualRateSection(tuple(sorted(found, key=lambda result: place[result.cell])))
