"""Making cells again from the completions that are there, without Dagster and without the model.

What a cell's run would store is computed anew: links, detections, rates, checks and pages. Only the identity probe is
left out: it needs the model, and says what held on the machine that generated. The next run of a cell makes it.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from backtracking_assets.assets.comparing import compare_plan
from backtracking_assets.assets.generating import link_to_completions
from backtracking_assets.assets.measuring import check_completions, measure_cell, read_cell
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.page_files import has_version, report_path
from backtracking_assets.assets.pages import sweep_is_reported, write_cell_report, write_sweep_report
from backtracking_assets.assets.prompts_asked import changed_problem
from backtracking_assets.assets.stored_cells import (
    checks_of,
    current_baseline,
    current_cells,
    failed,
    is_current,
    linked_cell,
    measured_cells,
    stored_row,
)
from backtracking_assets.assets.variants_from_store import restore_variants
from backtracking_assets.records import Cell, Subject, Variant
from backtracking_assets.storage import queries

RESTORED_BY = "restored"
"""Stands for a run id in the rows that no run stored."""

OnCell = Callable[[int, int], None]
"""Called with the cells that are done and how many there are."""


@dataclass
class Restored:
    """What was restored and what was not."""

    cells: list[Cell] = field(default_factory=list)
    """Cells that were not whole before and are now."""
    unchanged: list[Cell] = field(default_factory=list)
    refused: dict[Subject, str] = field(default_factory=dict)
    """Cells and variants that fail a check that must hold, or whose completions answer other prompts, and why."""
    absent: list[Cell] = field(default_factory=list)
    """Planned cells whose completions are not all there."""
    variants: list[Variant] = field(default_factory=list)
    """Prompt variants of phase 1 that were not whole before and are now."""
    whole_sweep: bool = False
    """Whether the comparisons and the sweep's page were made anew."""


def restore_cells(opened: OpenExperiment, *, on_cell: OnCell = lambda done, total: None) -> Restored:
    """Restore every cell of the plan whose completions are all in the database, then other cells of the grid.

    Of these, only cells that no planned cell shares its completions with: they must have been asked for. A cell that
    is current is left alone. Cells' pages come after all cells, since they show the baseline; then the comparisons and
    the sweep's page, if the baseline is there.

    Raises:
        BacktrackingError: a source is missing on this machine or unfit, or the store cannot be written.
    """
    restored = Restored()
    restored.variants, refused = restore_variants(opened, RESTORED_BY)
    restored.refused |= refused
    planned = opened.experiment.planned_cells()
    there = _with_completions(opened, _plan_first(opened, planned))
    restored.absent = [cell for cell in planned if cell not in set(there)]
    whole = _measured(opened)
    for done, cell in enumerate(there, start=1):
        if cell not in whole and (reason := _restore(opened, cell)) is not None:
            restored.refused[cell] = reason
        on_cell(done, len(there))
    written = _write_pages(opened, [cell for cell in there if cell not in restored.refused])
    for cell in there:
        if cell not in restored.refused:
            (restored.unchanged if cell in whole and cell not in written else restored.cells).append(cell)
    if current_baseline(opened) is not None:
        restored.whole_sweep = _restore_whole_sweep(opened)
    return restored


def _plan_first(opened: OpenExperiment, planned: Sequence[Cell]) -> list[Cell]:
    experiment = opened.experiment
    of_plan = {_fingerprint(opened, cell) for cell in planned}
    grid = (Cell(subset, scale) for subset in experiment.all_subsets() for scale in experiment.scales)
    return [*planned, *(cell for cell in grid if _fingerprint(opened, cell) not in of_plan)]


def _fingerprint(opened: OpenExperiment, cell: Cell) -> str | None:
    """None while the cell's subset waits for what it is made of: nothing can be told of its completions."""
    if opened.waits_for(cell.layer_subset) is not None:
        return None
    return opened.condition(cell).fingerprint


def _with_completions(opened: OpenExperiment, cells: Sequence[Cell]) -> list[Cell]:
    counts = queries.wanted_counts(opened.layout, list(opened.problems), opened.experiment.problems.samples)
    wanted = len(opened.keys())
    return [cell for cell in cells if counts.get(_fingerprint(opened, cell) or "") == wanted]


def _measured(opened: OpenExperiment) -> set[Cell]:
    """Cells that are linked, read and measured as the experiment file asks, and fail no check that must hold."""
    rows = [stored_row(opened, row) for row in queries.cells(opened.layout).to_pylist()]
    measured, checks = measured_cells(opened), checks_of(opened)
    return {
        stored.cell
        for stored in rows
        if stored.cell in measured
        and stored.detected
        and is_current(stored)
        and not failed(checks.get(stored.cell, ()))
    }


def _restore(opened: OpenExperiment, cell: Cell) -> str | None:
    """Link, check, read and measure a cell; why it cannot be used, or None."""
    row = queries.cell_row(opened.layout, cell)
    if row is None or not is_current(stored_row(opened, row)):
        fingerprint = opened.condition(cell).fingerprint
        if changed := changed_problem(opened, fingerprint):
            return f"problem {changed!r} has another text now than when its completions were made"
        link_to_completions(opened, cell, fingerprint, run_id=RESTORED_BY)
    stored = linked_cell(opened, cell)
    outcomes = checks_of(opened, "generations").get(cell) or check_completions(stored, RESTORED_BY, None)
    if broken := failed(outcomes):
        return f"its check {broken[0].name} fails: {broken[0].description}"
    if not stored.detected:
        read_cell(opened, cell, RESTORED_BY)
    _, _, outcomes = measure_cell(opened, cell, RESTORED_BY)
    if broken := failed(outcomes):
        return f"its check {broken[0].name} fails: {broken[0].description}"
    return None


def _write_pages(opened: OpenExperiment, cells: Collection[Cell]) -> set[Cell]:
    baseline, measured = current_baseline(opened), measured_cells(opened)
    outdated = {
        stored.cell
        for stored in current_cells(opened, cells)
        if stored.cell in measured and not has_version(report_path(opened, stored.cell), stored.page_version(baseline))
    }
    for cell in sorted(outdated, key=str):
        write_cell_report(opened, cell, RESTORED_BY)
    return outdated


def _restore_whole_sweep(opened: OpenExperiment) -> bool:
    if sweep_is_reported(opened):
        return False
    compare_plan(opened, RESTORED_BY)
    if not sweep_is_reported(opened):  # a page that came with the completions may show just these comparisons
        write_sweep_report(opened, RESTORED_BY)
    return True
