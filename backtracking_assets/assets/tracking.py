"""Finished cells in Weights & Biases: where its package is installed and a key is set; else nothing happens here.

The database stays the record. A tracker that fails or hangs fails no cell: it is given up for the rest of the process,
with one warning, and the next process that logs a cell brings the figures of all cells up to date.
"""

import os
import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from backtracking_assets.assets.open_experiment import OpenExperiment, component_names
from backtracking_assets.errors import StorageError
from backtracking_assets.experiment import Experiment
from backtracking_assets.records import Cell
from backtracking_assets.redaction import redacted
from backtracking_assets.storage import queries

MOST_WAITING = 60.0
"""Seconds that a cell waits for the tracker."""

_DEFAULT_PROJECT = "backtracking_assets"
_FIGURES = ("estimate", "low", "high", "n")

_failed = threading.Event()
_warnings: list[str] = []


def is_tracked() -> bool:
    """Whether cells are logged: a key is set in the environment and the package is installed."""
    if not os.environ.get("WANDB_API_KEY"):
        return False
    found = find_spec("wandb")
    return found is not None and found.origin is not None  # a folder of that name has none


def track_cell(opened: OpenExperiment, cell: Cell, log: Callable[[str], None]) -> None:
    """Log a measured cell, and the figures of every measured cell as the run's summary. Raises nothing."""
    if not is_tracked() or _failed.is_set():
        return
    outcome: list[str] = []

    def work() -> None:
        try:
            _send(opened, cell)
        except Exception as error:  # whatever a tracker raises, the cell is finished
            outcome.append(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        else:
            outcome.append("")

    # A daemon: a tracker that hangs must not keep the process.
    thread = threading.Thread(target=work, name="tracking", daemon=True)
    thread.start()
    thread.join(MOST_WAITING)
    reason = outcome[0] if outcome else f"no answer within {MOST_WAITING:.0f} s"
    if reason:
        _failed.set()
        warning = redacted(
            f"Cells are not logged to Weights & Biases from here on ({reason}). Nothing is lost: the next sweep that "
            "logs a cell brings the figures of all cells up to date."
        )
        _warnings.append(warning)
        log(warning)


def tracking_warning() -> str | None:
    """What went wrong since the last call, in one sentence; None where nothing did."""
    return _warnings.pop() if _warnings else None


def run_name(opened: OpenExperiment) -> str:
    """The id of the tracker's run: one for each experiment and checkpoint, whichever process logs."""
    return f"{opened.experiment.name}-{opened.checkpoint.weights_digest[:12]}"


def _send(opened: OpenExperiment, cell: Cell) -> None:
    import wandb  # pyright: ignore[reportMissingImports]

    experiment = opened.experiment
    rows = queries.metrics(opened.layout).to_pylist()
    figures = _by_cell(rows)
    if cell not in figures:
        raise StorageError(f"Cell {cell} has no metrics.")
    number = _number(experiment, cell)
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or _DEFAULT_PROJECT,
        entity=os.environ.get("WANDB_ENTITY") or None,
        id=run_name(opened),
        name=experiment.name,
        resume="allow",
        reinit="create_new",
        dir=opened.layout.root,  # in its folder `wandb`; without this, in whichever folder the process stands
        config=_config(opened),
        settings=wandb.Settings(
            silent=True,
            console="off",
            symlink=False,
            disable_git=True,
            disable_code=True,
            disable_job_creation=True,
            x_disable_meta=True,  # it would hold the command line, and paths of this machine
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            x_sync_dir_suffix=f"cell{number}",  # two cells of one second would share a folder
            init_timeout=MOST_WAITING / 2,
        ),
    )
    with run:
        # A number of its own: cells are finished in any order, and the tracker's own steps only ever rise.
        run.define_metric("*", step_metric="cell")
        run.log({"cell": number, **_identity(opened, cell), **figures[cell]})
        for other, values in figures.items():
            run.summary.update({f"{other}/{name}": value for name, value in values.items()})


def _by_cell(rows: list[dict[str, Any]]) -> dict[Cell, dict[str, float]]:
    """Figures by cell, named `strict_rate` or `strict_rate_low`; what was not measured is left out."""
    found: dict[Cell, dict[str, float]] = {}
    for row in rows:
        own = found.setdefault(Cell(row["layer_subset"], row["scale"]), {})
        for figure in _FIGURES:
            if row[figure] is not None:
                own[row["metric"] if figure == "estimate" else f"{row['metric']}_{figure}"] = row[figure]
    return found


def _number(experiment: Experiment, cell: Cell) -> int:
    """The cell's place among all cells of the grid."""
    subsets = list(experiment.all_subsets())
    return subsets.index(cell.layer_subset) * len(experiment.scales) + experiment.scales.index(cell.scale)


def _identity(opened: OpenExperiment, cell: Cell) -> dict[str, Any]:
    components = ", ".join(component_names(opened, cell.layer_subset))
    return {"layer_subset": cell.layer_subset, "scale": cell.scale, "components": components}


def _config(opened: OpenExperiment) -> dict[str, Any]:
    experiment = opened.experiment
    return {
        "experiment": experiment.name,
        "weights_digest": opened.checkpoint.weights_digest,
        "sampling": experiment.sampling.model_dump(mode="json"),
        "variant": experiment.prompting.variant,
        "problems": experiment.problems.count,
        "samples": experiment.problems.samples,
        "rules_digest": opened.rules_digest,
    }
