"""`backtracking train-organism`."""

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from backtracking_assets.errors import CheckpointError, ExperimentError, did_you_mean
from backtracking_assets.models.organism.recipe import RECIPES
from backtracking_assets.models.organism.training import TrainingProgress, train_organism


def run_training(out: Path, recipe: str, console: Console) -> None:
    """Train an organism by a named recipe into a new folder, with progress.

    Raises:
        ExperimentError: there is no recipe of that name.
        CheckpointError: the folder holds files already.
    """
    if recipe not in RECIPES:
        raise ExperimentError(
            f"There is no recipe {recipe!r}{did_you_mean(recipe, RECIPES)}; recipes: {', '.join(RECIPES)}."
        )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, object] = {}

        def report(progress: TrainingProgress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bars.add_task(progress.stage, total=progress.total_steps, note="")
            note = f"loss {progress.loss:.3f}, {progress.tokens_per_second:.0f} tokens/s"
            bars.update(tasks[progress.stage], completed=progress.step, note=note)  # type: ignore[arg-type]

        try:
            folder = train_organism(out, recipe=RECIPES[recipe], report=report)
        except ValueError as error:
            raise CheckpointError(str(error)) from error
    console.print(f"Checkpoint: {folder}", markup=False, soft_wrap=True)
