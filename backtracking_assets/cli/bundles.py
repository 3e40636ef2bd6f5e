"""`backtracking push` and `pull`: results travel between machines."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.provenance import versions
from backtracking_assets.assets.pushing import push_results
from backtracking_assets.assets.restoring import restore_cells
from backtracking_assets.cli.instance import open_instance
from backtracking_assets.cli.reconcile import reconcile_with_progress
from backtracking_assets.errors import CheckpointError, ExperimentError, ProblemFileError
from backtracking_assets.experiment import Experiment, outputs_home
from backtracking_assets.experiment_file import differing_sections, find_experiment, load_experiment
from backtracking_assets.storage.bundles.location import open_location
from backtracking_assets.storage.bundles.manifest import EXPERIMENT_FILE, Manifest
from backtracking_assets.storage.bundles.pull import Pulled, experiment_copy, pull
from backtracking_assets.storage.bundles.push import OnTransfer, Pushed
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.rebuilding import commit_archives

EXIT_DONE, EXIT_LEFT_OUT = 0, 1
PULLED = "pull"
"""Stands for a run id in the rows of conditions that a pull stored."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,79}")


def run_push(url: str, name: str, console: Console) -> int:
    """Push an experiment's results and say what was sent and verified; the exit code.

    Raises:
        BacktrackingError: the URL, the bundle there or the store cannot be used; the earlier bundle is untouched.
    """
    experiment = load_experiment(name)
    location = open_location(url, experiment.name)
    with _bar(console, "sent") as on_transfer:
        pushed = push_results(experiment, url, on_transfer)
    _say(console, f"{experiment.name} at {location.shown}: {pushed.files} files, {_size(pushed.size)}.")
    _say(console, f"Sent: {pushed.sent} files, {_size(pushed.sent_bytes)}. {_verified(pushed)}")
    for note in pushed.notes:
        _say(console, note, style="yellow")
    return EXIT_DONE


def run_pull(url: str, name: str, console: Console) -> int:
    """Take a bundle into the store and say what came; the exit code.

    Raises:
        BacktrackingError: the URL, the bundle or the store cannot be used. A bundle is taken whole or not at all.
    """
    experiment = _known_experiment(name)
    experiment_name = experiment.name if experiment is not None else name
    layout = StoreLayout(outputs_home() / experiment_name)
    location = open_location(url, experiment_name)
    with _bar(console, "fetched") as on_transfer:
        pulled = pull(
            layout, location, experiment=experiment_name, known=experiment is not None, on_transfer=on_transfer
        )
    _show(pulled, location.shown, console)
    if experiment is None:
        own = experiment_copy(layout, experiment_name)
        _say(
            console,
            f"{experiment_name!r} has no file in data/experiments/: the bundle's is in {own}. Look through it, then "
            f"copy it there, for which its relative paths are written, or give its path to a command: "
            f"backtracking status {own}",
        )
        experiment = load_experiment(own)
    elif (layout.pulled / EXPERIMENT_FILE).is_file():
        theirs = layout.pulled / EXPERIMENT_FILE
        if sections := differing_sections(experiment.source, theirs):
            _say(
                console,
                f"{experiment.source} differs from the bundle's {theirs} in: {', '.join(sections)}. Yours is "
                f"unchanged; cells are done where their completions are what it asks for.",
                style="yellow",
            )
    _bring_up_to_date(OpenExperiment(experiment, download=False), name, console)
    return EXIT_LEFT_OUT if pulled.skipped or pulled.notes else EXIT_DONE


def _bring_up_to_date(opened: OpenExperiment, name: str, console: Console) -> None:
    """Have the database, the cells and Dagster's record agree with the archive that was pulled."""
    # What an earlier pull could not store any more is made up for here: all that is archived is compared.
    committed = commit_archives(opened.layout, run_id=PULLED)
    _say(console, f"Stored in the database: {len(committed.completions)} conditions.")
    for fingerprint, reason in committed.damaged.items():
        _say(console, f"Set aside: the archive of {fingerprint[:12]}: {reason}.", style="yellow")
    try:
        # Without these no cell can be told from another. A new machine may not have downloaded them yet.
        _ = opened.checkpoint, opened.problems
    except (CheckpointError, ProblemFileError) as error:
        _say(console, f"The next sweep restores the cells without generating them again. {error}", style="yellow")
        return
    restored = restore_cells(opened)
    there, planned = {*restored.cells, *restored.unchanged}, opened.experiment.planned_cells()
    for cell, reason in restored.refused.items():
        _say(console, f"Not restored: {cell}: {reason}", style="yellow")
    if restored.variants:
        _say(console, f"Restored: {len(restored.variants)} prompt variants.")
    _say(console, f"Done: {len(there.intersection(planned))} of {len(planned)} cells. See: backtracking status {name}")
    with open_instance() as instance:
        reconcile_with_progress(instance, opened, console)


def _known_experiment(name: str) -> Experiment | None:
    """The experiment of this name or file; None where this machine has none of that name.

    Raises:
        ExperimentError: its file is unfit, or the argument is neither a file nor a name.
    """
    try:
        find_experiment(name)
    except ExperimentError:
        if not _NAME.fullmatch(name):
            raise
        own = experiment_copy(StoreLayout(outputs_home() / name), name)
        return load_experiment(own) if own.is_file() else None
    return load_experiment(name)


def _show(pulled: Pulled, shown: str, console: Console) -> None:
    manifest = pulled.manifest
    _say(
        console,
        f"{manifest.experiment} at {shown}: {len(manifest.files)} files, {_size(manifest.size)}, made "
        f"{manifest.made.at} on {manifest.made.host} (commit {manifest.made.commit}).",
    )
    _say(
        console,
        f"Fetched and verified by sha256: {pulled.fetched} files, {_size(pulled.fetched_bytes)}. Taken: "
        f"{pulled.completions} completions of {pulled.conditions} conditions, {pulled.pages} pages.",
    )
    if differing := _other_versions(manifest):
        _say(console, f"Made by other versions: {differing}.", style="yellow")
    for sentence in (*pulled.skipped, *pulled.notes):
        _say(console, sentence, style="yellow")


def _other_versions(manifest: Manifest) -> str:
    here: Mapping[str, str] = versions()
    theirs = manifest.made.versions
    return ", ".join(
        f"{package} {theirs[package]} there and {here[package]} here"
        for package in here
        if package in theirs and theirs[package] != here[package]
    )


def _verified(pushed: Pushed) -> str:
    ways = []
    if pushed.by_checksum:
        ways.append(f"{pushed.by_checksum} by the checksum that the place keeps")
    if pushed.by_reading:
        ways.append(f"{pushed.by_reading} by reading them back")
    if pushed.by_size:
        ways.append(f"{pushed.by_size} from earlier pushes by size")
    return f"Verified: {', '.join(ways)}." if ways else "Nothing to verify."


def _size(n_bytes: int) -> str:
    if n_bytes < 1000:
        return f"{n_bytes} bytes"
    for unit, factor in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if n_bytes < 999.5 * factor:
            return f"{n_bytes / factor:.3g} {unit}"
    return f"{n_bytes / 1e12:.3g} TB"


def _say(console: Console, sentence: str, style: str | None = None) -> None:
    console.print(sentence, style=style, markup=False, soft_wrap=True, highlight=False)


@contextmanager
def _bar(console: Console, verb: str) -> Iterator[OnTransfer]:
    """A bar of bytes in a terminal; nothing in a file or a pipe."""
    columns = (TextColumn(verb), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(verb, total=None)

        def moved(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield moved
