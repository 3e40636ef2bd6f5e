"""`backtracking sweep` and `report`: cells one after another in one process, with the model loaded once."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import dagster as dg
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from backtracking_assets.assets.checkpoint_watch import holding_checkpoint
from backtracking_assets.assets.contents import sweep_report
from backtracking_assets.assets.continuing import settings_of, stored_summaries
from backtracking_assets.assets.jobs import CELL_ASSETS, CELLS_JOB, CONTINUATION_JOB, STEPS
from backtracking_assets.assets.loaded import prompts
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.page_files import sweep_report_path
from backtracking_assets.assets.pages import sweep_is_reported
from backtracking_assets.assets.progress import Progress as CellProgress
from backtracking_assets.assets.progress import listening
from backtracking_assets.assets.pushing import BackgroundPush, push_url, pushing_cells
from backtracking_assets.assets.status import CellAsset, CellStatus, planned_status
from backtracking_assets.assets.stored_cells import current_baseline
from backtracking_assets.cli.instance import open_instance
from backtracking_assets.cli.interrupts import SignalWatch, watching_signals
from backtracking_assets.cli.reconcile import reconcile_with_progress
from backtracking_assets.definitions import build_definitions
from backtracking_assets.errors import (
    BacktrackingError,
    ChangedCheckpointError,
    ExperimentError,
    UnwritableError,
    did_you_mean,
)
from backtracking_assets.execution.devices import device_locks_dir, devices_for, leased_device
from backtracking_assets.execution.run_tags import process_tags
from backtracking_assets.experiment import Experiment
from backtracking_assets.experiment_file import load_experiment
from backtracking_assets.partitions import cell_key
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import Cell
from backtracking_assets.redaction import redacted
from backtracking_assets.reporting.tables import result_table, terminal_tables
from backtracking_assets.reporting.text import visible
from backtracking_assets.storage.locks import whole_sweep_lock
from backtracking_assets.storage.turns import Visitors, in_turn, visitors

EXIT_DONE, EXIT_FAILED = 0, 1
_WIDTH_OF_FILES = 200
_INTERRUPTIONS = ("DagsterExecutionInterruptedError", "KeyboardInterrupt")
_STOPPING = (UnwritableError, ChangedCheckpointError)
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def run_sweep(
    name: str,
    layer_subsets: Sequence[str],
    scales: Sequence[float],
    step_name: str,
    console: Console,
    *,
    push: str | None = None,
) -> int:
    """Do what is missing of a step of the study; the exit code.

    Finished cells are pushed to the URL `push`, or that of the environment, without being waited for.

    Raises:
        BacktrackingError: a source, an option or the store is unfit; nothing was generated then.
    """
    experiment = load_experiment(name)
    step = STEPS.get(step_name)
    if step is None:
        near = did_you_mean(step_name, STEPS)
        raise ExperimentError(f"There is no job {step_name!r}{near}; jobs: {', '.join(STEPS)}.")
    if step_name == CONTINUATION_JOB:
        settings_of(experiment)
    wanted = _chosen(experiment, layer_subsets, scales, step_name)
    # Who asks for some cells of the whole study waits for no other generation.
    narrowed = step_name != CONTINUATION_JOB and bool(layer_subsets or scales)
    sweep_jobs = [name for name in step.sweep_jobs if not (narrowed and name == CONTINUATION_JOB)]
    opened = OpenExperiment(experiment)
    opened.layout.prepare()
    before = visitors(opened.layout, wanted)
    statuses = {status.cell: status for status in planned_status(opened)}
    missing = [statuses[cell] for cell in wanted if statuses[cell].state != "done"]
    generates = any(status.first_asset == "generations" for status in missing)
    if generates:
        # What every cell would refuse is refused here, once. Both need torch, which nothing else imports.
        prompts(opened)
        devices_for(experiment.model.device)
    with pushing_cells(experiment, push or push_url()) as background, open_instance() as instance:
        reconcile_with_progress(instance, opened, console)
        runner = _Runner(experiment, instance, background)
        console.print(
            f"{experiment.name}: {len(wanted)} cells of {experiment.completions_per_cell} completions, "
            f"{len(wanted) - len(missing)} done before, {len(missing)} to do."
        )
        with watching_signals() as signals, holding_checkpoint(opened.checkpoint):
            try:
                if missing:
                    with _waiting_for_device(experiment, console) if generates else nullcontext() as device:
                        runner.run_cells(missing, before, device, signals, console)
                runner.run_whole_sweep(sweep_jobs, console, only_if_outdated=True)
            except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
                _say_stopped(experiment, wanted, console)
                return signals.exit_code()
        if background is not None:
            background.ask()  # the comparisons and the sweep's page
            _warn(background.finish(), console)
    _show_results(experiment, console)
    for failure in runner.failures:
        console.print(visible(f"Failed: {failure}"), style="red", markup=False, soft_wrap=True)
    return EXIT_FAILED if runner.failures else EXIT_DONE


def write_report(name: str, console: Console) -> int:
    """Write the sweep's report from what is there and print its path; the exit code."""
    experiment = load_experiment(name)
    opened = OpenExperiment(experiment, download=False)
    opened.layout.prepare()
    with open_instance() as instance:
        reconcile_with_progress(instance, opened, Console(stderr=True))  # a script takes the path from the output
        runner = _Runner(experiment, instance)
        # A report needs no model: it shows the continuation ablation that is there, or says why there is none.
        runner.run_whole_sweep([name for name in STEPS["full_study"].sweep_jobs if name != CONTINUATION_JOB], console)
    for failure in runner.failures:
        console.print(visible(f"Failed: {failure}"), style="red", markup=False, soft_wrap=True)
    print(sweep_report_path(opened))
    return EXIT_FAILED if runner.failures else EXIT_DONE


def _continuation_line(experiment: Experiment) -> str:
    n_cells, n_events = len(experiment.continuation_cells()), settings_of(experiment).events
    return f"Continuation ablation: {n_cells} interventions at up to {n_events} events of the baseline."


def continuation_is_done(opened: OpenExperiment) -> bool:
    """Whether there is nothing to do for the continuation ablation: it is current, or not asked for."""
    return opened.experiment.continuation is None or stored_summaries(opened) is not None


def _chosen(
    experiment: Experiment, layer_subsets: Sequence[str], scales: Sequence[float], step_name: str
) -> list[Cell]:
    """The planned cells of a step that the options leave, the baseline first: other cells are shown beside it."""
    known = experiment.all_subsets()
    for subset in layer_subsets:
        if subset not in known:
            raise ExperimentError(
                f"There is no layer subset {subset!r}{did_you_mean(subset, known)}; subsets: {', '.join(known)}."
            )
    for scale in scales:
        if scale not in experiment.scales:
            listed = ", ".join(f"{known_scale:g}" for known_scale in experiment.scales)
            raise ExperimentError(f"There is no scale {scale:g} in {experiment.source}; scales: {listed}.")
    cells = [
        cell
        for cell in experiment.planned_cells()
        if STEPS[step_name].needs(experiment, cell)
        and (not layer_subsets or cell.layer_subset in layer_subsets)
        and (not scales or cell.scale in scales)
    ]
    if not cells and (layer_subsets or scales):
        raise ExperimentError(
            f"No cell of the plan in {experiment.source} has these subsets and scales; "
            "add them to the plan, or materialize the cell in the UI."
        )
    return sorted(cells, key=lambda cell: not _is_baseline(cell))


@contextmanager
def _waiting_for_device(experiment: Experiment, console: Console) -> Iterator[str]:
    devices = devices_for(experiment.model.device)

    def waiting(seconds: float) -> None:
        console.print(f"Waiting for {' or '.join(devices)}, taken by another process ({seconds:.0f} s so far).")

    with leased_device(devices, device_locks_dir(), on_wait=waiting) as device:
        yield device


@dataclass
class _Runner:
    """Runs jobs of one experiment in this process and gathers what failed."""

    experiment: Experiment
    instance: dg.DagsterInstance
    background: BackgroundPush | None = None
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._definitions = build_definitions(self.experiment)

    def run_cells(
        self,
        statuses: Sequence[CellStatus],
        before: Visitors,
        device: str | None,
        signals: SignalWatch,
        console: Console,
    ) -> None:
        """Do of each cell what its status says is to be done; without a device, nothing is generated.

        Other sweeps may do some of them meanwhile.
        """
        layout, by_cell = OpenExperiment(self.experiment, download=False).layout, {s.cell: s for s in statuses}

        def at_wait() -> None:
            signals.stop_if_signaled()
            bars.waiting()

        def at_progress(progress: CellProgress) -> None:
            signals.stop_if_signaled()

        with _progress(console, self.experiment, len(statuses), device) as bars, listening(at_progress):
            turns = in_turn(layout, list(by_cell), before, comes_first=_is_baseline, on_wait=at_wait)
            for place, turn in enumerate(turns):
                cell = turn.cell
                bars.start(cell)
                status = self._status_now(cell) if turn.visited else by_cell[cell]
                if status.state != "done":
                    self._run(CELLS_JOB, cell, device, status.first_asset)
                signals.stop_if_signaled()
                bars.finish()
                if self.background is not None:
                    _warn(self.background.warning(), console)
                left = len(statuses) - place - 1
                if self.failures and cell.scale == BASELINE_SCALE and left:
                    console.print(f"Not started, since each is compared with the baseline: {left} cells.")
                    break

    def _status_now(self, cell: Cell) -> CellStatus:
        """Status of a cell that another sweep has worked on."""
        statuses = planned_status(OpenExperiment(self.experiment, download=False))
        return next(status for status in statuses if status.cell == cell)

    def run_whole_sweep(self, names: Sequence[str], console: Console, *, only_if_outdated: bool = False) -> None:
        """Run whole-sweep jobs, one sweep at a time; those that look at the baseline only where there is one."""
        opened = OpenExperiment(self.experiment, download=False)
        with whole_sweep_lock(opened.layout):
            if only_if_outdated:
                # Looked at here: another sweep may have done it, and cells made by now may have changed the baseline.
                names = [name for name in names if name != CONTINUATION_JOB or not continuation_is_done(opened)]
                if CONTINUATION_JOB not in names and "make_report_phase2" in names and sweep_is_reported(opened):
                    return
            baseline = current_baseline(opened)
            for name in names:
                if name == "make_report_phase2" or baseline is not None:
                    if name == CONTINUATION_JOB:  # which takes its time
                        console.print(_continuation_line(self.experiment))
                    self._run(name)

    def _run(
        self, name: str, cell: Cell | None = None, device: str | None = None, first: CellAsset | None = None
    ) -> None:
        """Run a job; of a cell, the asset `first` and those after it."""
        # The tag lists the run under its job in the UI, where the code location has the experiment's name.
        run_id = str(uuid.uuid4())
        tags = {
            **process_tags(run_id, device),
            ".dagster/repository": f"__repository__@{self.experiment.name}",
            # Should this process die, the next sweep does what is missing; a daemon must not do it as well.
            "dagster/max_retries": "0",
        }
        result = self._definitions.resolve_job_def(name).execute_in_process(
            instance=self.instance,
            run_id=run_id,
            partition_key=None if cell is None else cell_key(cell),
            asset_selection=None if first is None else self._assets_from(first),
            tags=tags,
            run_config=_QUIET,
            raise_on_error=False,
        )
        if _interrupted(result):
            raise KeyboardInterrupt
        if (kind := _stopping(result)) is not None:
            raise kind(f"{cell or name}: {_reason(result)}")
        if not result.success:
            self.failures.append(redacted(f"{cell or name}: {_reason(result)}"))

    def _assets_from(self, first: CellAsset) -> list[dg.AssetKey]:
        return [dg.AssetKey([self.experiment.name, name]) for name in CELL_ASSETS[CELL_ASSETS.index(first) :]]


def _is_baseline(cell: Cell) -> bool:
    return cell.scale == BASELINE_SCALE


def _interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether Ctrl-C ended a step, which Dagster reports as any other failure of it."""
    failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    return any(data.error is not None and data.error.cls_name in _INTERRUPTIONS for data in failures)


def _stopping(result: dg.ExecuteInProcessResult) -> type[BacktrackingError] | None:
    """The kind of a failure that every other cell would meet as well; None where there is none."""
    errors = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
    causes = {error.cause.cls_name for error in errors if error is not None and error.cause is not None}
    return next((kind for kind in _STOPPING if kind.__name__ in causes), None)


def _reason(result: dg.ExecuteInProcessResult) -> str:
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data is not None and data.user_failure_data.description:
                return data.user_failure_data.description
            if data.error is not None:
                cause = data.error.cause or data.error
                return " ".join(cause.message.split())
    return f"run {result.run_id} failed"


class _Bars:
    """Two progress bars: cells, and completions of the cell at work."""

    def __init__(self, bars: Progress, experiment: Experiment, n_cells: int) -> None:
        self._bars = bars
        self._experiment = experiment
        self._cells: TaskID = bars.add_task("cells", total=n_cells, note="")
        self._cell: TaskID = bars.add_task("", total=experiment.completions_per_cell, note="")

    def start(self, cell: Cell) -> None:
        total = self._experiment.completions_per_cell
        self._bars.reset(self._cell, description=escape(str(cell)), total=total, note="")

    def waiting(self) -> None:
        self._bars.update(self._cell, description="other sweeps are at work on the cells that are left", note="")

    def told(self, progress: CellProgress) -> None:
        note = f"{progress.generated / progress.seconds:.1f} completions/s" if progress.seconds else ""
        if progress.step:
            note += f" token {progress.step}, {progress.n_open} open"
        self._bars.update(self._cell, completed=progress.done, total=progress.total, note=note)

    def finish(self) -> None:
        self._bars.update(self._cell, completed=self._bars.tasks[1].total or 0)
        self._bars.advance(self._cells)


@contextmanager
def _progress(console: Console, experiment: Experiment, n_cells: int, device: str | None) -> Iterator[_Bars]:
    console.print("Nothing to generate." if device is None else f"Generating on {device}.")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console) as bars:
        shown = _Bars(bars, experiment, n_cells)
        with listening(shown.told):
            yield shown


def _warn(warning: str | None, console: Console) -> None:
    if warning is not None:
        console.print(f"Warning: {warning}", style="yellow", markup=False, soft_wrap=True, highlight=False)


def _say_stopped(experiment: Experiment, wanted: Sequence[Cell], console: Console) -> None:
    statuses = {status.cell: status for status in planned_status(OpenExperiment(experiment, download=False))}
    done = sum(statuses[cell].state == "done" for cell in wanted)
    console.print(
        f"\nStopped: {done} of {len(wanted)} cells are done, and every finished chunk is safe. "
        "The same command goes on with what is missing.",
        style="yellow",
    )


def _show_results(experiment: Experiment, console: Console) -> None:
    opened = OpenExperiment(experiment, download=False)
    table = result_table(sweep_report(opened, run_id=""))
    # A file or a pipe has no width of its own to fit.
    wide = console if console.is_terminal else Console(width=_WIDTH_OF_FILES)
    for part in terminal_tables(table, wide.width, title=experiment.title):
        wide.print(part)
    if sweep_report_path(opened).is_file():
        console.print(f"Report: {sweep_report_path(opened)}", soft_wrap=True, markup=False)
    console.print("Lineage and backfills: backtracking ui, then open http://127.0.0.1:3000")
