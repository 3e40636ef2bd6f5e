"""`backtracking reconcile`, which `sweep`, `report` and `ui` also begin with."""

from contextlib import ExitStack

import dagster as dg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.reconciling import Reconciled, reconcile
from backtracking_assets.cli.instance import open_instance
from backtracking_assets.experiment_file import load_experiment

EXIT_DONE = 0


def run_reconcile(name: str, console: Console) -> int:
    """Have Dagster's record agree with the store, and say what differed; the exit code.

    Raises:
        BacktrackingError: a source, the store or Dagster's folder cannot be used.
    """
    opened = OpenExperiment(load_experiment(name), download=False)
    with open_instance() as instance:
        result = reconcile_with_progress(instance, opened, console)
    if not result.recorded and not result.variants and not result.strays:
        console.print(f"{name}: Dagster's record agrees with the store.", markup=False, soft_wrap=True)
    for stray in result.strays:
        console.print(f"Only in Dagster's record: {stray}", style="yellow", markup=False, soft_wrap=True)
    return EXIT_DONE


def reconcile_with_progress(instance: dg.DagsterInstance, opened: OpenExperiment, console: Console) -> Reconciled:
    """Reconcile, showing progress only where something is recorded, and say in a line or two what differed.

    Raises:
        BacktrackingError: see `reconciling.reconcile`.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    with ExitStack() as shown:
        bars = Progress(*columns, console=console, transient=True)
        task = bars.add_task("cells recorded in Dagster", total=None)

        def on_cell(done: int, total: int) -> None:
            if not bars.live.is_started:
                shown.enter_context(bars)
            bars.update(task, completed=done, total=total)

        result = reconcile(instance, opened, on_cell=on_cell)
    name = opened.experiment.name
    if result.recorded:
        of_sweep = sum(cell is None for _, cell in result.recorded)
        console.print(
            f"{name}: Dagster's record lacked what the store holds: recorded "
            f"{len(result.recorded) - of_sweep} assets of {len(result.cells)} cells and {of_sweep} of the whole sweep.",
            soft_wrap=True,
        )
    if result.variants:
        variants = {variant for _, variant in result.variants}
        console.print(
            f"{name}: Dagster's record lacked prompt variants that the store holds: recorded {len(result.variants)} "
            f"assets of {len(variants)} variants.",
            soft_wrap=True,
        )
    if result.strays:
        console.print(
            f"{name}: Dagster shows {len(result.strays)} materializations that the store does not hold; "
            "they are marked there, and the next sweep makes what the plan needs.",
            soft_wrap=True,
        )
    return result
