"""What the store holds of each asset, as the data version that its materialization has."""

from collections.abc import Iterator
from dataclasses import dataclass

from backtracking_assets.assets.compositions import MEANS, means_digest_of
from backtracking_assets.assets.continuing import continuation_digest, stored_summaries
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.page_files import page_version, report_path
from backtracking_assets.assets.positive_control_inputs import held_control_digest, positive_control_is_done
from backtracking_assets.assets.stored_cells import (
    StoredCell,
    current_baseline,
    current_cells,
    is_current,
    stored_row,
)
from backtracking_assets.assets.sweep_status import cells_digest, sweep_status
from backtracking_assets.records import Cell
from backtracking_assets.storage import queries


@dataclass(frozen=True)
class Held:
    """What the store holds of one asset."""

    data_version: str
    current: bool
    """Whether it is what the experiment file asks for now, and fails no check that must hold."""


@dataclass(frozen=True)
class HeldCell:
    """What the store holds of a cell, by asset, upstream first. What it does not hold is not among them."""

    stored: StoredCell
    assets: dict[str, Held]


def held_cells(opened: OpenExperiment) -> dict[Cell, HeldCell]:
    """What the store holds of every cell that is linked. The same few queries, however many cells there are."""
    rows = queries.cells(opened.layout).to_pylist()
    measured, broken = queries.measured_by(opened.layout), _broken(opened)
    baseline = current_baseline(opened)
    subsets = opened.subsets
    held = {}
    for row in rows:
        stored = stored_row(opened, row)
        if stored.cell.layer_subset in subsets:
            assets = dict(_assets(stored, measured.get(stored.cell), broken, baseline))
            held[stored.cell] = HeldCell(stored, assets)
    return held


def held_sweep(opened: OpenExperiment, cells: dict[Cell, HeldCell]) -> dict[str, Held]:
    """What the store holds of the whole-sweep assets; `cells` as `held_cells` gives them."""
    status, baseline = sweep_status(opened), current_baseline(opened)
    held = {}
    # Where only the baseline is there, comparisons that hold no row are all that there can be.
    if status.comparisons.state != "missing" or (baseline is not None and status.comparisons.n_changed == 0):
        planned = current_cells(opened, opened.experiment.planned_cells())
        version = cells_digest(stored for stored in planned if stored.cell in cells)
        compared = Held(version, status.comparisons.state == "current")
        held |= {"subset_sweep": compared, "scale_sweep": compared}
    if opened.experiment.needs_means and (means := means_digest_of(opened)) is not None:
        held[MEANS] = Held(means, True)
    summaries = queries.continuation_summaries(opened.layout)
    if summaries.num_rows and baseline is not None and opened.experiment.continuation is not None:
        current = stored_summaries(opened) is not None
        held["continuation_ablation"] = Held(continuation_digest(opened, baseline), current)
    if opened.experiment.positive_control is not None and (control := held_control_digest(opened)) is not None:
        held["positive_control"] = Held(control, positive_control_is_done(opened))
    if status.page.state != "missing":
        held["phase2_report"] = Held(status.cells_digest, status.page.state == "current")
    return held


def _assets(
    stored: StoredCell, statistics: str | None, broken: set[tuple[Cell, str]], baseline: StoredCell | None
) -> Iterator[tuple[str, Held]]:
    current = is_current(stored) and (stored.cell, "generations") not in broken
    yield "generations", Held(stored.completions_version(), current)
    if stored.rules_digest is None:
        return
    current = current and stored.detected
    yield "detections", Held(stored.version(), current)
    if statistics is not None:
        asked = stored.opened.statistics_digest
        current = current and statistics == asked and (stored.cell, "metrics") not in broken
        yield "metrics", Held(stored.metrics_version(statistics), current)
        page = page_version(report_path(stored.opened, stored.cell))
        if page is not None:
            yield "condition_reports", Held(page, current and page == stored.page_version(baseline))


def _broken(opened: OpenExperiment) -> set[tuple[Cell, str]]:
    """Cells and assets with a check that must hold and does not."""
    return {
        (Cell(row["layer_subset"], row["scale"]), row["asset"])
        for row in queries.checks(opened.layout).to_pylist()
        if row["severity"] == "error" and not row["passed"]
    }
