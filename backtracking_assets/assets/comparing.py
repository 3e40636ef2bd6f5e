"""The plan's cells against the baseline, and whether the comparisons that are stored are of the cells as they are."""

import pyarrow as pa

from backtracking_assets.analysis.comparisons import compare_cells
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.stored_cells import current_baseline, current_cells
from backtracking_assets.errors import StorageError
from backtracking_assets.experiment import BASELINE_SCALE
from backtracking_assets.storage import queries
from backtracking_assets.storage.commits import write_comparisons


def compare_plan(opened: OpenExperiment, run_id: str) -> pa.Table:
    """Compare every planned cell that is current with the baseline, and store the comparisons.

    All of them, whichever slice is shown: Holm's correction is over the plan.

    Raises:
        StorageError: the baseline is not there.
    """
    experiment = opened.experiment
    baseline = current_baseline(opened)
    if baseline is None:
        raise StorageError(
            f"There is nothing to compare with: no cell at scale {BASELINE_SCALE} is there; "
            "materialize the baseline, any subset at scale 1.0, first."
        )
    planned = experiment.planned_cells()
    cells = [cell.rows for cell in current_cells(opened, planned)]
    # Cells that are still missing count in the correction, or it would grow stricter as they come in.
    family = sum(opened.condition(cell).fingerprint != baseline.fingerprint for cell in planned)
    table = compare_cells(
        cells,
        baseline.rows,
        problem_set_digest=opened.problem_set_digest,
        statistics=experiment.statistics,
        run_id=run_id,
        family_size=family,
    )
    write_comparisons(opened.layout, table)
    return table


def plan_is_compared(opened: OpenExperiment) -> bool:
    """Whether the stored comparisons are those of all planned cells that are current, made together.

    By which statistics is not stored with them; the sweep's page, which is written after them, is stamped with that.
    """
    baseline = current_baseline(opened)
    if baseline is None:
        return False
    shared = (baseline.fingerprint, opened.problem_set_digest, opened.rules_digest)
    wanted = {
        (stored.cell.layer_subset, stored.cell.scale, stored.fingerprint, *shared)
        for stored in current_cells(opened, opened.experiment.planned_cells())
        if stored.fingerprint != baseline.fingerprint
    }
    rows = queries.comparisons(opened.layout).to_pylist()
    compared = ("layer_subset", "scale", "fingerprint", "baseline_fingerprint", "problem_set_digest", "rules_digest")
    found = {tuple(row[name] for name in compared) for row in rows}
    return found == wanted and len({row["run_id"] for row in rows}) <= 1
