"""`backtracking sweep` and `report`: variants and cells one after another in one process, the model loaded once."""

from collections.abc import Sequence

import dagster as dg
from rich.console import Console

from backtracking_assets.assets.checkpoint_watch import holding_checkpoint
from backtracking_assets.assets.compositions import MEANS
from backtracking_assets.assets.contents import sweep_values
from backtracking_assets.assets.jobs import (
    FULL_STUDY,
    PHASE1_JOBS,
    PHASE2,
    PHASE2_JOBS,
    STEPS,
    asked_jobs,
    refuse_unasked,
)
from backtracking_assets.assets.memory_planning import device_budget, plan_of_experiment
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.page_files import sweep_report_path
from backtracking_assets.assets.pushing import push_url, pushing_cells
from backtracking_assets.assets.sources import record_sources
from backtracking_assets.assets.status import CellStatus, planned_status
from backtracking_assets.assets.stored_variants import variants_of
from backtracking_assets.assets.variant_status import VariantStatus, variants_status
from backtracking_assets.assets.whole_study import WHOLE_STUDY
from backtracking_assets.cli.fork_server import start_fork_server
from backtracking_assets.cli.instance import open_instance
from backtracking_assets.cli.interrupts import watching_signals
from backtracking_assets.cli.making import generates, make_missing, n_workers
from backtracking_assets.cli.reconcile import reconcile_with_progress
from backtracking_assets.cli.runner import Runner, warn
from backtracking_assets.cli.waiting import reopened, without_waiting
from backtracking_assets.errors import ExperimentError, did_you_mean
from backtracking_assets.execution.devices import devices_of, torch_device
from backtracking_assets.experiment import Experiment
from backtracking_assets.experiment_file import load_experiment
from backtracking_assets.plan import is_baseline
from backtracking_assets.records import Cell, Variant
from backtracking_assets.reporting.tables import result_table, terminal_tables
from backtracking_assets.reporting.text import visible
from backtracking_assets.storage.turns import Visitors, visitors

EXIT_DONE, EXIT_FAILED = 0, 1
_WIDTH_OF_FILES = 200


def run_sweep(
    name: str,
    layer_subsets: Sequence[str],
    scales: Sequence[float],
    step_name: str,
    console: Console,
    *,
    push: str | None = None,
    most_devices: int | None = None,
) -> int:
    """Do what is missing of a step of the study; the exit code.

    Finished variants and cells are pushed to the URL `push`, or that of the environment, without being waited for.
    Each device is used by a process of its own, up to `most_devices`; where there is one, by this process.

    Raises:
        BacktrackingError: a source, an option or the store is unfit; nothing was generated then.
    """
    experiment = load_experiment(name)
    step = STEPS.get(step_name)
    if step is None:
        near = did_you_mean(step_name, STEPS)
        raise ExperimentError(f"There is no job {step_name!r}{near}; jobs: {', '.join(STEPS)}.")
    refuse_unasked(experiment, step_name)
    wanted = _chosen(experiment, layer_subsets, scales, step_name)
    # Who asks for some cells of the whole study waits for no other generation.
    narrowed = step_name in (FULL_STUDY, PHASE2) and bool(layer_subsets or scales)
    jobs = [job for job in asked_jobs(experiment, step.jobs) if not (narrowed and _needs_more_than_cells(job))]
    variants = variants_of(experiment) if step.variants and not narrowed else ()
    opened = OpenExperiment(experiment)
    opened.layout.prepare()
    variants_before, missing_variants = _missing_variants(opened, variants)
    cells_before, missing = _missing_cells(opened, wanted)
    plans: list[str] = []
    if generates(missing_variants) or generates(missing):
        # What every cell would refuse is refused here, once. All of it needs torch, which nothing else imports.
        if max(n_workers(experiment, some, most_devices) for some in (missing_variants, missing)) > 1:
            start_fork_server()
        asked = [*(opened.for_variant(variant.name) for variant in variants), opened]
        devices = {torch_device(device) for device in devices_of(experiment)}
        plans = sorted({str(plan_of_experiment(asked, device_budget(opened, device))) for device in devices})
    with pushing_cells(experiment, push or push_url()) as background, open_instance() as instance:
        reconcile_with_progress(instance, opened, console)
        runner = Runner(experiment, instance, background)
        _say_what_is_missing(experiment, variants, missing_variants, wanted, missing, console)
        for plan in plans:
            console.print(f"{plan}.", markup=False, highlight=False, soft_wrap=True)
        with watching_signals() as signals, holding_checkpoint(opened.checkpoint):
            try:
                if missing_variants:
                    make_missing(runner, opened, missing_variants, variants_before, most_devices, signals, console)
                first = [job for job in jobs if WHOLE_STUDY[job].before_cells]
                if any(status.waits_for == MEANS for status in missing):
                    first.append(MEANS)
                if runner.run_whole_study(first, console, only_if_outdated=True) or missing_variants:
                    # What the layers are derived from may have changed, and the baseline may be there by now.
                    record_sources(instance, reopened(experiment))
                    cells_before, missing = _missing_cells(reopened(experiment), wanted)
                missing = without_waiting(missing, console)
                if missing:
                    make_missing(runner, opened, missing, cells_before, most_devices, signals, console)
                runner.run_whole_study([job for job in jobs if job not in first], console, only_if_outdated=True)
            except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
                _say_stopped(experiment, variants, wanted, console)
                return signals.exit_code()
        if background is not None:
            background.ask()  # the comparisons and the sweep's page
            warn(background.finish(), console)
    _show_results(experiment, console)
    for failure in runner.failures:
        console.print(visible(f"Failed: {failure}"), style="red", markup=False, soft_wrap=True)
    return EXIT_FAILED if runner.failures else EXIT_DONE


def write_report(name: str, console: Console) -> int:
    """Write the reports from what is there and print the sweep's path; the exit code."""
    experiment = load_experiment(name)
    opened = OpenExperiment(experiment, download=False)
    opened.layout.prepare()
    with open_instance() as instance:
        reconcile_with_progress(instance, opened, Console(stderr=True))  # a script takes the path from the output
        runner = Runner(experiment, instance)
        # A report needs no model: it shows what was measured with one, or says why it is not there.
        without_model = [job for job in STEPS[FULL_STUDY].jobs if not WHOLE_STUDY[job].runs_model]
        asked = asked_jobs(experiment, tuple(without_model))
        runner.run_whole_study([job for job in asked if job in PHASE1_JOBS], console, only_if_outdated=True)
        runner.run_whole_study([job for job in asked if job in PHASE2_JOBS], console)
    for failure in runner.failures:
        console.print(visible(f"Failed: {failure}"), style="red", markup=False, soft_wrap=True)
    print(sweep_report_path(opened))
    return EXIT_FAILED if runner.failures else EXIT_DONE


def _needs_more_than_cells(job: str) -> bool:
    return WHOLE_STUDY[job].runs_model or WHOLE_STUDY[job].looks_at_variants


def _missing_variants(opened: OpenExperiment, wanted: Sequence[Variant]) -> tuple[Visitors, list[VariantStatus]]:
    """The wanted variants that are not done, and the marks of their visitors from before that was looked up."""
    before = visitors(opened.layout, wanted)
    statuses = variants_status(opened) if wanted else []
    return before, [status for status in statuses if status.state != "done"]


def _missing_cells(opened: OpenExperiment, wanted: Sequence[Cell]) -> tuple[Visitors, list[CellStatus]]:
    """The wanted cells that are not done, and the marks of their visitors from before that was looked up."""
    before = visitors(opened.layout, wanted)
    statuses = {status.cell: status for status in planned_status(opened)}
    return before, [statuses[cell] for cell in wanted if statuses[cell].state != "done"]


def _say_what_is_missing(
    experiment: Experiment,
    variants: Sequence[Variant],
    missing_variants: Sequence[VariantStatus],
    cells: Sequence[Cell],
    missing: Sequence[CellStatus],
    console: Console,
) -> None:
    if variants and experiment.phase1 is not None:
        n_completions = experiment.phase1.count * experiment.phase1.samples
        console.print(
            f"{experiment.name}: {len(variants)} prompt variants of {n_completions} completions, "
            f"{len(variants) - len(missing_variants)} done before, {len(missing_variants)} to do."
        )
    if cells or not variants:
        console.print(
            f"{experiment.name}: {len(cells)} cells of {experiment.completions_per_cell} completions, "
            f"{len(cells) - len(missing)} done before, {len(missing)} to do."
        )


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
        if STEPS[step_name].cells(experiment, cell)
        and (not layer_subsets or cell.layer_subset in layer_subsets)
        and (not scales or cell.scale in scales)
    ]
    if not cells and (layer_subsets or scales):
        raise ExperimentError(
            f"No cell of the plan in {experiment.source} has these subsets and scales; "
            "add them to the plan, or materialize the cell in the UI."
        )
    return sorted(cells, key=lambda cell: not is_baseline(cell))


def _say_stopped(experiment: Experiment, variants: Sequence[Variant], wanted: Sequence[Cell], console: Console) -> None:
    opened, parts = OpenExperiment(experiment, download=False), []
    if variants:
        of_variants = variants_status(opened)
        done = sum(status.state == "done" for status in of_variants)
        parts.append(f"{done} of {len(of_variants)} prompt variants are done")
    if wanted or not variants:
        statuses = {status.cell: status for status in planned_status(opened)}
        done = sum(statuses[cell].state == "done" for cell in wanted)
        parts.append(f"{done} of {len(wanted)} cells are done")
    console.print(
        f"\nStopped: {', '.join(parts)}, and every finished chunk is safe. "
        "The same command goes on with what is missing.",
        style="yellow",
    )


def _show_results(experiment: Experiment, console: Console) -> None:
    opened = OpenExperiment(experiment, download=False)
    table = result_table(sweep_values(opened, run_id=""))
    # A file or a pipe has no width of its own to fit.
    wide = console if console.is_terminal else Console(width=_WIDTH_OF_FILES)
    for part in terminal_tables(table, wide.width, title=experiment.title):
        wide.print(part)
    if sweep_report_path(opened).is_file():
        console.print(f"Report: {sweep_report_path(opened)}", soft_wrap=True, markup=False)
    console.print("Lineage and backfills: backtracking ui, then open http://127.0.0.1:3000")
