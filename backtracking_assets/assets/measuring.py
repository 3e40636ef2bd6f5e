"""Figures from completions: checked, read by the rules, measured. Each step stores what it found."""

from collections.abc import Mapping
from typing import Any, TypeVar

import pyarrow as pa

from backtracking_assets.analysis.detection import detect, rules_document
from backtracking_assets.analysis.metrics import cell_metrics, variant_metrics
from backtracking_assets.analysis.statistics_settings import statistics_document
from backtracking_assets.assets.checks import checks_table, detection_checks, generation_checks, metric_checks
from backtracking_assets.assets.non_finite import with_origin
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.stored_cells import StoredCell, detected_cell, linked_cell
from backtracking_assets.assets.stored_variants import Stored, StoredVariant, detected_variant, linked_variant
from backtracking_assets.fault_points import reached
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import Cell
from backtracking_assets.reporting.contents import CheckOutcome
from backtracking_assets.storage.commits import write_checks, write_detections, write_metrics
from backtracking_assets.storage.database import reading

_Stored = TypeVar("_Stored", StoredCell, StoredVariant)


def check_completions(
    stored: Stored, run_id: str, identity: CheckOutcome | None, *, with_model: bool = False
) -> list[CheckOutcome]:
    """Check completions and store the outcomes, that of the identity probe among them where it was made.

    Args:
        with_model: whether the model may be run, which can say where NaN logits come from.

    Raises:
        StorageError: the store cannot be read or written.
    """
    opened, condition = stored.opened, stored.condition
    outcomes = generation_checks(opened.experiment, condition, stored.completions, identity)
    if isinstance(stored, StoredVariant):
        outcomes = [outcome for outcome in outcomes if outcome.name != "interventions_fired"]
    if with_model:
        outcomes = with_origin(opened, condition, stored.completions, outcomes)
    write_checks(opened.layout, checks_table(stored.subject, asset_of(stored, "generations"), outcomes, run_id))
    reached("checks written", str(stored.subject))
    return outcomes


def asset_of(stored: Stored, cell_asset: str) -> str:
    """The asset of a variant that does what this asset of a cell does; the same one for a cell."""
    return f"variant_{cell_asset}" if isinstance(stored, StoredVariant) else cell_asset


def read_cell(opened: OpenExperiment, cell: Cell, run_id: str) -> tuple[StoredCell, list[CheckOutcome]]:
    """Read a cell's completions by the rules as they are now; the cell with what was stored, and its checks.

    Raises:
        StorageError: the cell's completions are not there or not current, or the store cannot be written.
    """
    with reading(opened.layout):
        stored = linked_cell(opened, cell)
        _ = stored.completions
    return read_completions(stored, run_id)


def read_variant(opened: OpenExperiment, name: str, run_id: str) -> tuple[StoredVariant, list[CheckOutcome]]:
    """`read_cell` for a prompt variant."""
    return read_completions(linked_variant(opened, name), run_id)


def read_completions(stored: _Stored, run_id: str) -> tuple[_Stored, list[CheckOutcome]]:
    """`read_cell` or `read_variant` for what was looked up before."""
    opened, subject = stored.opened, stored.subject
    found = detect(stored.completions, opened.problems, opened.experiment.detection, run_id=run_id)
    outcomes = detection_checks(opened.experiment.checks, found)
    checks = checks_table(subject, asset_of(stored, "detections"), outcomes, run_id)
    rules = rules_document(opened.experiment.detection)
    write_detections(opened.layout, found, cell=subject, rules=rules, checks=checks)
    reached("detections written", str(subject))
    return stored.read_as(found), outcomes


def measure_cell(opened: OpenExperiment, cell: Cell, run_id: str) -> tuple[StoredCell, pa.Table, list[CheckOutcome]]:
    """Compute a cell's rates; the cell, the metrics that were stored, and their checks.

    Raises:
        StorageError: the cell's completions or detections are not there or not current, or the store cannot be written.
    """
    with reading(opened.layout):
        stored = detected_cell(opened, cell)
        stored.load()
    table = cell_metrics(stored.completions, stored.detections, opened.problems, cell=cell, **_facts(stored, run_id))
    return stored, table, _store_metrics(stored, table, run_id, is_baseline=cell.scale == BASELINE_SCALE)


def measure_variant(
    opened: OpenExperiment, name: str, run_id: str
) -> tuple[StoredVariant, pa.Table, list[CheckOutcome]]:
    """`measure_cell` for a prompt variant. Only the sweep's own one must be above accuracy against shuffled answers."""
    stored = detected_variant(opened, name)
    table = variant_metrics(stored.rows, stored.opened.problems, **_facts(stored, run_id))
    return stored, table, _store_metrics(stored, table, run_id, is_baseline=stored.of_sweep)


def _facts(stored: Stored, run_id: str) -> Mapping[str, Any]:
    statistics = stored.opened.experiment.statistics
    return {"problem_set_digest": stored.problem_set_digest, "statistics": statistics, "run_id": run_id}


def _store_metrics(stored: Stored, table: pa.Table, run_id: str, *, is_baseline: bool) -> list[CheckOutcome]:
    opened, subject = stored.opened, stored.subject
    outcomes = metric_checks(opened.experiment.checks, table, is_baseline=is_baseline)
    checks = checks_table(subject, asset_of(stored, "metrics"), outcomes, run_id)
    write_metrics(opened.layout, table, statistics=statistics_document(opened.experiment.statistics), checks=checks)
    reached("metrics written", str(subject))
    return outcomes
