"""Making the cells or variants that are missing: in this process on one device, or by a worker on each of several."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.console import Console

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.status import CellStatus
from backtracking_assets.assets.variant_status import VariantStatus
from backtracking_assets.cli.bars import progress_bars
from backtracking_assets.cli.handing_out import HandingOut, Task
from backtracking_assets.cli.interrupts import SignalWatch
from backtracking_assets.cli.runner import Runner, say_not_started, warn
from backtracking_assets.cli.waiting import reopened
from backtracking_assets.execution.dagster_home import raise_gpu_pool_limit
from backtracking_assets.execution.dead_runs import end_dead_runs
from backtracking_assets.execution.devices import device_locks_dir, devices_of, leased_device
from backtracking_assets.experiment import Experiment
from backtracking_assets.plan import is_baseline
from backtracking_assets.records import Subject, Variant
from backtracking_assets.storage.turns import Visitors

Statuses = Sequence[CellStatus] | Sequence[VariantStatus]


def generates(statuses: Statuses) -> bool:
    """Whether completions are missing, or are to be looked at with a model."""
    return any(status.first_asset in ("generations", "variant_generations") for status in statuses)


def n_workers(experiment: Experiment, statuses: Statuses, most: int | None) -> int:
    """How many processes generate what is missing at once: one a device, and no more than there is to do.

    Args:
        most: at most so many; None for all devices.

    Raises:
        BacktrackingError: see `devices_of`.
    """
    if not generates(statuses):
        return 1
    n_devices = len(devices_of(experiment))
    return max(1, min(n_devices, len(statuses), n_devices if most is None else most))


def make_missing(
    runner: Runner,
    opened: OpenExperiment,
    statuses: Statuses,
    before: Visitors,
    most_devices: int | None,
    signals: SignalWatch,
    console: Console,
) -> None:
    """Do of each cell or variant what its status says is to be done; failures are gathered by the runner.

    Args:
        opened: the experiment as the sweep began with it.
        before: the marks of their visitors from before their status was looked up.

    Raises:
        BacktrackingError: something that every cell would meet.
        KeyboardInterrupt: the process was told to stop.
    """
    experiment = runner.experiment
    size = n_workers(experiment, statuses, most_devices)
    if size > 1:
        _by_workers(runner, opened, statuses, before, size, signals, console)
        return
    with _device(experiment, generates(statuses), console) as device:
        runner.run(statuses, before, device, signals, console)


def _by_workers(
    runner: Runner,
    opened: OpenExperiment,
    statuses: Statuses,
    before: Visitors,
    size: int,
    signals: SignalWatch,
    console: Console,
) -> None:
    from backtracking_assets.cli.crew import Crew
    from backtracking_assets.cli.worker import Finished, Order

    experiment = runner.experiment
    left = HandingOut(
        [Task(place, s.subject, s.first_asset or "", before[s.subject]) for place, s in enumerate(statuses)],
        _condition_of(reopened(experiment)),
    )

    def finished(task: Task, said: Finished) -> bool:
        runner.failures.extend(said.failures)
        warn(said.warning, console)
        if runner.background is not None:
            runner.background.ask()
            warn(runner.background.warning(), console)
        if said.failures and is_baseline(task.subject):
            if left.n_unfinished:
                say_not_started(left.n_unfinished, console)
            return False
        return True

    kind, completions = runner.kind_of(statuses)
    order = Order(experiment, opened.checkpoint, devices_of(experiment))
    # The leases see to it that a device has one holder; Dagster's pool may only not be narrower.
    raise_gpu_pool_limit(runner.instance, size)
    with (
        progress_bars(console, kind, len(statuses), completions, order.devices[:size], size) as bars,
        Crew(order, size, console, lambda: end_dead_runs(runner.instance)) as crew,
    ):
        crew.run(left, bars, signals, finished)


def _condition_of(opened: OpenExperiment) -> Callable[[Subject], str]:
    """What tells the fingerprint of the condition that a cell or a variant has."""

    def condition(subject: Subject) -> str:
        own = opened.for_variant(subject.name).baseline if isinstance(subject, Variant) else opened.condition(subject)
        return own.fingerprint

    return condition


@contextmanager
def _waiting_for_device(experiment: Experiment, console: Console) -> Iterator[str]:
    devices = devices_of(experiment)

    def waiting(seconds: float) -> None:
        console.print(f"Waiting for {' or '.join(devices)}, taken by another process ({seconds:.0f} s so far).")

    with leased_device(devices, device_locks_dir(), on_wait=waiting) as device:
        yield device


def _device(experiment: Experiment, generates: bool, console: Console) -> AbstractContextManager[str | None]:
    """A lease on a device where something is generated; None where nothing is."""
    return _waiting_for_device(experiment, console) if generates else nullcontext()
