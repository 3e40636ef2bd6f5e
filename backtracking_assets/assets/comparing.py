"""The plan's cells against the baseline."""

from collections.abc import Iterator, Sequence

from backtracking_assets.analysis.comparisons import compare_cells
from backtracking_assets.analysis.counts import CellRows
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.stored_cells import StoredCell, current_baseline, current_cells
from backtracking_assets.assets.sweep_status import comparisons_status, family_size
from backtracking_assets.errors import StorageError
from backtracking_assets.fault_points import reached
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.storage.commits import write_comparisons
from backtracking_assets.storage.sweep_queries import Wanted, counted


def compare_plan(opened: OpenExperiment, run_id: str) -> None:
    """Have every planned cell that is current compared with the baseline in the store.

    All of them, whichever slice is shown: Holm's correction is over the plan. What is stored of just these cells stays,
    so that of the assets that show it only the first computes it.

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
    if comparisons_status(opened).state == "current":
        return
    current = current_cells(opened, experiment.planned_cells())
    others = [cell for cell in current if cell.fingerprint != baseline.fingerprint]
    table = compare_cells(
        counted_rows(opened, others),
        baseline.rows,
        problem_set_digest=opened.problem_set_digest,
        statistics=experiment.statistics,
        run_id=run_id,
        # Cells that are still missing count in the correction, or it would grow stricter as they come in.
        family_size=family_size(opened, baseline),
    )
    write_comparisons(opened.layout, table)
    reached("comparisons written")


def counted_rows(opened: OpenExperiment, cells: Sequence[StoredCell]) -> Iterator[CellRows]:
    """What measures count in, of each cell: a few reads of the store for all of them."""
    pointing: dict[str, list[StoredCell]] = {}
    for cell in cells:
        pointing.setdefault(cell.fingerprint, []).append(cell)
    wanted = Wanted(opened.problem_set_digest, opened.experiment.problems.samples)
    for fingerprint, completions, detections in counted(opened.layout, [*pointing], opened.rules_digest, wanted):
        yield from (CellRows(cell.cell, completions, detections) for cell in pointing[fingerprint])
