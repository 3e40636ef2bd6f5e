"""Pages on disk: writing them, and whether they show what the store holds now."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from backtracking_assets.assets.contents import cell_report, sweep_report
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.page_files import has_version, report_path, stamped, sweep_report_path
from backtracking_assets.assets.stored_cells import current_baseline, current_cells, measured_cells
from backtracking_assets.assets.sweep_status import sweep_status
from backtracking_assets.records import Cell
from backtracking_assets.reporting.cell_report import render_cell_report
from backtracking_assets.reporting.contents import CellReport, SweepReport
from backtracking_assets.reporting.figures import cell_overview
from backtracking_assets.reporting.sweep_report import render_sweep_report
from backtracking_assets.storage.durable import write_text_durably


@dataclass(frozen=True)
class CellPage:
    """A cell's page on disk."""

    report: CellReport
    path: Path
    overview: Figure
    """Its first figure, which Dagster shows as well."""


def write_cell_report(opened: OpenExperiment, cell: Cell, run_id: str) -> CellPage:
    """Write a cell's page; what it shows, and where it stands.

    Raises:
        StorageError: the cell is not there or not current, or the page cannot be written.
    """
    report, path = cell_report(opened, cell, run_id), report_path(opened, cell)
    overview = cell_overview(report)
    write_text_durably(path, stamped(render_cell_report(report, overview), report.version), "page")
    return CellPage(report, path, overview)


def sweep_is_reported(opened: OpenExperiment) -> bool:
    """Whether comparisons and the sweep's page are there and show what the store holds."""
    return sweep_status(opened).is_reported


def write_sweep_report(opened: OpenExperiment, run_id: str) -> tuple[SweepReport, Path]:
    """Write the sweep's page; what it shows, and where it stands.

    Raises:
        StorageError: the page cannot be written.
    """
    status, report, path = sweep_status(opened), sweep_report(opened, run_id), sweep_report_path(opened)
    write_text_durably(path, stamped(render_sweep_report(report), status.page_version, status.shown), "page")
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
