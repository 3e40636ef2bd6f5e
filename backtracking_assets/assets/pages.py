"""Cells' pages on disk: where they stand, and whether they show what the store holds now."""

from pathlib import Path

from backtracking_assets.assets.contents import cell_report
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.page_files import has_version, report_path, stamped
from backtracking_assets.assets.stored_cells import current_baseline, current_cells, detected_cell, measured_cells
from backtracking_assets.records import Cell
from backtracking_assets.reporting.cell_report import render_cell_report
from backtracking_assets.reporting.contents import CellReport
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
