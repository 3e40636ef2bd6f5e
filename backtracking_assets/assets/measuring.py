"""A cell's figures from its completions: checked, read by the rules, measured. Each step stores what it found."""

import pyarrow as pa

from backtracking_assets.analysis.detection import detect, rules_document
from backtracking_assets.analysis.metrics import cell_metrics, statistics_document
from backtracking_assets.assets.checks import checks_table, detection_checks, generation_checks, metric_checks
from backtracking_assets.assets.non_finite import with_origin
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.stored_cells import StoredCell, detected_cell, linked_cell
from backtracking_assets.fault_points import reached
from backtracking_assets.records import Cell
from backtracking_assets.reporting.contents import CheckOutcome
from backtracking_assets.storage.commits import write_checks, write_detections, write_metrics


def check_completions(stored: StoredCell, run_id: str, identity: CheckOutcome | None) -> list[CheckOutcome]:
    """Check a cell's completions and store the outcomes, that of the identity probe among them where it was made.

    Raises:
        StorageError: the store cannot be read or written.
    """
    opened, cell = stored.opened, stored.cell
    condition = opened.condition(cell)
    outcomes = generation_checks(opened.experiment, condition, stored.completions, identity)
    if identity is not None:  # who probes has the model at hand, and can say where NaN logits come from
        outcomes = with_origin(opened, condition, stored.completions, outcomes)
    write_checks(opened.layout, checks_table(cell, "generations", outcomes, run_id))
    reached("checks written", str(cell))
    return outcomes


def read_cell(opened: OpenExperiment, cell: Cell, run_id: str) -> tuple[pa.Table, list[CheckOutcome]]:
    """Read a cell's completions by the rules as they are now; the detections that were stored, and their checks.

    Raises:
        StorageError: the cell's completions are not there or not current, or the store cannot be written.
    """
    stored = linked_cell(opened, cell)
    found = detect(stored.completions, opened.problems, opened.experiment.detection, run_id=run_id)
    write_detections(opened.layout, found, cell=cell, rules=rules_document(opened.experiment.detection))
    reached("detections written", str(cell))
    outcomes = detection_checks(opened.experiment.checks, found)
    write_checks(opened.layout, checks_table(cell, "detections", outcomes, run_id))
    return found, outcomes


def measure_cell(opened: OpenExperiment, cell: Cell, run_id: str) -> tuple[pa.Table, list[CheckOutcome]]:
    """Compute a cell's rates; the metrics that were stored, and their checks.

    Raises:
        StorageError: the cell's completions or detections are not there or not current, or the store cannot be written.
    """
    stored = detected_cell(opened, cell)
    table = cell_metrics(
        stored.completions,
        stored.detections,
        opened.problems,
        cell=cell,
        problem_set_digest=stored.problem_set_digest,
        statistics=opened.experiment.statistics,
        run_id=run_id,
    )
    write_metrics(opened.layout, table, statistics=statistics_document(opened.experiment.statistics))
    reached("metrics written", str(cell))
    outcomes = metric_checks(opened.experiment.checks, cell, table)
    write_checks(opened.layout, checks_table(cell, "metrics", outcomes, run_id))
    return table, outcomes
