"""Pages on disk: writing them, and whether they show what the store holds now."""

from pathlib import Path

from backtracking_assets.analysis.metrics import statistics_digest
from backtracking_assets.assets.contents import cell_report, cells_digest, sweep_report
from backtracking_assets.assets.continuing import stored_summaries
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.page_files import has_version, report_path, stamped, sweep_report_path
from backtracking_assets.assets.stored_cells import current_baseline, current_cells, detected_cell, measured_cells
from backtracking_assets.conditions import digest
from backtracking_assets.records import Cell
from backtracking_assets.reporting.cell_report import render_cell_report
from backtracking_assets.reporting.contents import CellReport, SweepReport
from backtracking_assets.reporting.sweep_report import render_sweep_report
from backtracking_assets.storage.durable import write_text_durably


def write_cell_report(opened: OpenExperiment, cell: Cell, run_id: str) -> tuple[CellReport, Path]:
    """Write a cell's page; what it shows, and where it stands.

    Raises:
        StorageError: the cell is not there or not current, or the page cannot be written.
    """
    version = detected_cell(opened, cell).page_version(current_baseline(opened))
    report, path = cell_report(opened, cell, run_id), report_path(opened, cell)
    write_text_durably(path, stamped(render_cell_report(report), version))
    return report, path


def sweep_version(opened: OpenExperiment) -> str:
    """What the sweep's page shows: the cells that are there, of those that are planned, the statistics, and the
    continuation ablation.
    """
    planned = opened.experiment.planned_cells()
    there = cells_digest(current_cells(opened, planned))
    continued = stored_summaries(opened)
    return digest(
        [
            there,
            [str(cell) for cell in planned],
            statistics_digest(opened.experiment.statistics),
            None if continued is None else continued["continuation_digest"][0].as_py(),
        ]
    )


def sweep_is_reported(opened: OpenExperiment) -> bool:
    """Whether the sweep's page is there and shows what the store holds."""
    return has_version(sweep_report_path(opened), sweep_version(opened))


def write_sweep_report(opened: OpenExperiment, run_id: str) -> tuple[SweepReport, Path]:
    """Write the sweep's page; what it shows, and where it stands.

    Raises:
        StorageError: the page cannot be written.
    """
    version, report, path = sweep_version(opened), sweep_report(opened, run_id), sweep_report_path(opened)
    write_text_durably(path, stamped(render_sweep_report(report), version))
    return report, path


def refresh_pages(opened: OpenExperiment, run_id: str) -> int:
    """Write the pages of planned cells anew that show something else than the store holds; how many.

    A backfill may make a cell before the baseline, whose page then says that there is none.
    """
    baseline, measured = current_baseline(opened), measured_cells(opened)
    outdated = [
        stored.cell
        for stored in current_cells(opened, opened.experiment.planned_cells())
        if stored.cell in measured and not has_version(report_path(opened, stored.cell), stored.page_version(baseline))
    ]
    for cell in outdated:
        write_cell_report(opened, cell, run_id)
    return len(outdated)
