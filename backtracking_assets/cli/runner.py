"""Running an experiment's jobs in this process, one after another, and gathering what failed."""

import gc
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TypeVar

import dagster as dg
from rich.console import Console

from backtracking_assets.assets.jobs import assets_between, job_of
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.progress import Progress, listening
from backtracking_assets.assets.pushing import BackgroundPush
from backtracking_assets.assets.status import CellStatus, planned_status
from backtracking_assets.assets.stored_cells import current_baseline
from backtracking_assets.assets.stored_variants import current_variants, variants_of
from backtracking_assets.assets.tracking import tracking_warning
from backtracking_assets.assets.variant_status import VariantStatus, variants_status
from backtracking_assets.assets.whole_study import WHOLE_STUDY, WholeStudyJob
from backtracking_assets.cli.bars import progress_bars
from backtracking_assets.cli.interrupts import SignalWatch
from backtracking_assets.definitions import build_definitions
from backtracking_assets.errors import BacktrackingError, ChangedCheckpointError, UnwritableError
from backtracking_assets.execution.run_tags import process_tags
from backtracking_assets.experiment import Experiment
from backtracking_assets.partitions import subject_key
from backtracking_assets.plan import is_baseline
from backtracking_assets.records import Cell, Subject, Variant
from backtracking_assets.redaction import redacted
from backtracking_assets.storage.locks import whole_sweep_lock
from backtracking_assets.storage.turns import Visitors, in_turn

_INTERRUPTIONS = ("DagsterExecutionInterruptedError", "KeyboardInterrupt")
_STOPPING = (UnwritableError, ChangedCheckpointError)
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

_Subject = TypeVar("_Subject", Cell, Variant)


@dataclass
class Runner:
    """Runs jobs of one experiment in this process and gathers what failed."""

    experiment: Experiment
    instance: dg.DagsterInstance
    background: BackgroundPush | None = None
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._definitions = build_definitions(self.experiment)

    def run(
        self,
        statuses: Sequence[CellStatus] | Sequence[VariantStatus],
        before: Visitors,
        device: str | None,
        signals: SignalWatch,
        console: Console,
    ) -> None:
        """Do of each cell or variant what its status says is to be done; without a device, nothing is generated.

        Other sweeps may do some of them meanwhile.
        """
        first = {status.subject: status.first_asset for status in statuses}
        kind, completions = self.kind_of(statuses)
        subjects, failures_before = list(first), len(self.failures)

        def at_wait() -> None:
            signals.stop_if_signaled()
            bars.waiting()

        def at_progress(progress: Progress) -> None:
            signals.stop_if_signaled()

        with (
            progress_bars(console, kind, len(subjects), completions, () if device is None else (device,)) as bars,
            listening(at_progress),
        ):
            turns = in_turn(self._opened().layout, subjects, before, comes_first=is_baseline, on_wait=at_wait)
            for place, turn in enumerate(turns):
                bars.start(turn.cell)
                self.do(turn.cell, device, first[turn.cell], look_again=turn.visited)
                signals.stop_if_signaled()
                bars.finish()
                warn(tracking_warning(), console)
                if self.background is not None:
                    warn(self.background.warning(), console)
                left = len(subjects) - place - 1
                if len(self.failures) > failures_before and is_baseline(turn.cell) and left:
                    say_not_started(left, console)
                    break

    def kind_of(self, statuses: Sequence[CellStatus] | Sequence[VariantStatus]) -> tuple[str, int]:
        """What these are, `cells` or `variants`, and how many completions each of them has."""
        if isinstance(statuses[0], CellStatus):
            return "cells", self.experiment.completions_per_cell
        phase1 = self.experiment.phase1
        assert phase1 is not None
        return "variants", phase1.count * phase1.samples

    def do(
        self, subject: Subject, device: str | None, first: str | None, last: str | None = None, *, look_again: bool
    ) -> None:
        """Materialize the assets of a cell or a variant from `first` to `last`.

        Args:
            look_again: whether its status is to be looked up anew, because another sweep has worked on it.
        """
        if look_again:
            status = self._status(subject)
            if status.state == "done":
                return
            first = status.first_asset
        if assets := assets_between(subject, first, last):
            self._run(job_of(subject), subject, device, assets)
            _spare_what_is_imported()

    def _status(self, subject: Subject) -> CellStatus | VariantStatus:
        if isinstance(subject, Variant):
            return next(status for status in variants_status(self._opened()) if status.variant == subject)
        return next(status for status in planned_status(self._opened()) if status.cell == subject)

    def run_whole_study(self, names: Sequence[str], console: Console, *, only_if_outdated: bool = False) -> bool:
        """Run jobs of the whole study in the order given, one sweep at a time; whether any was run.

        Each is looked at right before it would run: another sweep may have done it, and what came before it may have
        changed what it is computed from. One that looks at something that is not there is left out.
        """
        opened, ran = self._opened(), False
        if not names:
            return False
        with whole_sweep_lock(opened.layout):
            for name in names:
                job = WHOLE_STUDY[name]
                if not _can_run(opened, job) or (only_if_outdated and job.is_done(opened)):
                    continue
                if job.announcement is not None:
                    console.print(job.announcement(opened))
                self._run(name)
                ran = True
        return ran

    def _opened(self) -> OpenExperiment:
        return OpenExperiment(self.experiment, download=False)

    def _run(
        self, name: str, subject: Subject | None = None, device: str | None = None, assets: Sequence[str] | None = None
    ) -> None:
        """Run a job, or some of its assets."""
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
            partition_key=None if subject is None else subject_key(subject),
            asset_selection=None if assets is None else [dg.AssetKey([self.experiment.name, a]) for a in assets],
            tags=tags,
            run_config=_QUIET,
            raise_on_error=False,
        )
        if _interrupted(result):
            raise KeyboardInterrupt
        if (kind := _stopping(result)) is not None:
            raise kind(f"{subject or name}: {_reason(result)}")
        if not result.success:
            self.failures.append(redacted(f"{subject or name}: {_reason(result)}"))


def say_not_started(n_cells: int, console: Console) -> None:
    """Say how many cells a failed baseline keeps from being started."""
    console.print(f"Not started, since each is compared with the baseline: {n_cells} cells.")


def warn(warning: str | None, console: Console) -> None:
    """Print a warning, if there is one."""
    if warning is not None:
        console.print(f"Warning: {warning}", style="yellow", markup=False, soft_wrap=True, highlight=False)


@cache
def _spare_what_is_imported() -> None:
    """Have the garbage collector pass over all objects that are there after a process's first cell.

    Nearly all of them are modules, those of torch, transformers and Dagster, which stay; looking at them takes 0.3 s.
    """
    gc.collect()
    gc.freeze()


def _can_run(opened: OpenExperiment, job: WholeStudyJob) -> bool:
    """Whether all that a job looks at is there."""
    if job.looks_at_baseline and current_baseline(opened) is None:
        return False
    if job.looks_at_variants and len(current_variants(opened)) < len(variants_of(opened.experiment)):
        return False
    return all(WHOLE_STUDY[name].is_done(opened) for name in job.after if name in WHOLE_STUDY)


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
