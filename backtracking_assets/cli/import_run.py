"""`backtracking import-run`."""

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from backtracking_assets.assets.imported_contents import write_imported_report
from backtracking_assets.assets.importing import Imported, import_run
from backtracking_assets.experiment_file import load_experiment
from backtracking_assets.reporting.formats import plural
from backtracking_assets.reporting.text import visible
from backtracking_assets.storage.imported_runs import selection_of
from backtracking_assets.storage.layout import StoreLayout

EXIT_DONE, EXIT_LEFT_OUT = 0, 1
_MOST_SHOWN = 20


def run_import(folder: Path, name: str, phase1: str | None, strict: bool, console: Console) -> int:
    """Import a run folder and say what came of it; the exit code.

    Args:
        phase1: the run that this one went out from: the id of an imported one, or a folder, which is imported first.

    Raises:
        BacktrackingError: the folder or the store cannot be used; nothing of the folder was stored then.
    """
    experiment = load_experiment(name)
    layout = StoreLayout(experiment.outputs_dir())
    layout.prepare()
    code = EXIT_DONE
    if phase1 is not None and Path(phase1).is_dir():
        first = import_run(layout, experiment, Path(phase1), strict=strict)
        code = _show(first, layout, console) or code
        _say(console, f"Page: {write_imported_report(layout, experiment, first.run.run_id)}")
        phase1 = first.run.run_id
    imported = import_run(layout, experiment, folder, phase1=phase1, strict=strict)
    code = _show(imported, layout, console) or code
    _say(console, f"Page: {write_imported_report(layout, experiment, imported.run.run_id)}")
    _say(console, f"Published beside measured stands in the sweep's report: backtracking report {name}")
    return code


def _show(imported: Imported, layout: StoreLayout, console: Console) -> int:
    run, row = imported.run, imported.row
    published = {(f["file"], f["entry"], f["measure"]) for f in imported.figures if f["published"] is not None}
    _say(
        console,
        f"Run {run.run_id}: {plural(len(run.files), 'file')}, {plural(row['n_events'], 'event')}, "
        f"{plural(len(published), 'published figure')}, stored in {layout.database}.",
    )
    if run.absent:
        _say(console, f"Not in the folder: {', '.join(run.absent)}.")
    if row["phase1_run_id"] is not None:
        _say(console, f"Phase 1: run {row['phase1_run_id']} ({imported.linked_by}).")
    elif run.events is None:
        _say(console, "Phase 1: no run is linked; --phase1 DIR imports and links one.", style="yellow")
    for line in outcome_lines(imported.figures):
        _say(console, line)
    for fault in imported.faults:
        _say(console, f"Fault: {fault['description']}", style="yellow")
    if run.selected is not None:
        _say(console, f"Selected components: {selection_of(layout, run.run_id)}")
    for entry in run.unreadable[:_MOST_SHOWN]:
        _say(console, f"Left out: {entry}", style="yellow")
    if len(run.unreadable) > _MOST_SHOWN:
        _say(console, f"Left out: {len(run.unreadable) - _MOST_SHOWN} more; all are in the table imported_unreadable.")
    return EXIT_LEFT_OUT if run.unreadable else EXIT_DONE


def outcome_lines(figures: Iterable[dict[str, object]]) -> list[str]:
    """How many published figures have each outcome, a published accuracy counted once."""
    best: dict[tuple[object, object, object], str] = {}
    for row in figures:
        if row["published"] is not None:
            key = (row["file"], row["entry"], row["measure"])
            if row["outcome"] == "equal" or key not in best:
                best[key] = str(row["outcome"])
    counted = {outcome: list(best.values()).count(outcome) for outcome in dict.fromkeys(best.values())}
    return [f"Published figures: {', '.join(f'{n:,} {outcome}' for outcome, n in counted.items())}."] if best else []


def _say(console: Console, sentence: str, style: str | None = None) -> None:
    console.print(visible(sentence), style=style, markup=False, soft_wrap=True, highlight=False)
