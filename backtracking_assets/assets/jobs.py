"""Jobs under the reference study's step names, and which planned cells each of them needs."""

from collections.abc import Callable
from dataclasses import dataclass

import dagster as dg

from backtracking_assets.experiment import Experiment
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import Cell

CELL_ASSETS = ("generations", "detections", "metrics", "condition_reports")
"""The assets of a cell, upstream first."""

CELLS_JOB = "phase2_cells"
"""The four assets of one cell; a run of it is launched for each cell."""


@dataclass(frozen=True)
class Step:
    """A step of the study: the cells that it needs, then whole-sweep jobs."""

    needs: Callable[[Experiment, Cell], bool]
    sweep_jobs: tuple[str, ...]


def _at_lowest_scale(experiment: Experiment, cell: Cell) -> bool:
    return cell.scale in (min(experiment.scales), BASELINE_SCALE)


def _targeted(experiment: Experiment, cell: Cell) -> bool:
    return cell.layer_subset in experiment.layer_subsets


def _baseline(experiment: Experiment, cell: Cell) -> bool:
    return cell.scale == BASELINE_SCALE


CONTINUATION_JOB = "phase2_continuation_ablation"
"""There only where the experiment file has a section `continuation`."""

POSITIVE_CONTROL_JOB = "positive_control"
"""There only where the experiment file has a section `positive_control`."""

_ALL_JOBS = (
    "phase2_subset_sweep",
    "phase2_scale_sweep",
    CONTINUATION_JOB,
    POSITIVE_CONTROL_JOB,
    "make_report_phase2",
)

STEPS: dict[str, Step] = {
    "full_study": Step(lambda experiment, cell: True, _ALL_JOBS),
    "phase2_subset_sweep": Step(_at_lowest_scale, ("phase2_subset_sweep",)),
    "phase2_scale_sweep": Step(_targeted, ("phase2_scale_sweep",)),
    CONTINUATION_JOB: Step(_baseline, (CONTINUATION_JOB,)),
    POSITIVE_CONTROL_JOB: Step(lambda experiment, cell: False, (POSITIVE_CONTROL_JOB,)),
    "make_report_phase2": Step(lambda experiment, cell: False, ("make_report_phase2",)),
}
"""What `backtracking sweep --job NAME` does."""

_SELECTED: dict[str, tuple[str, ...]] = {
    "phase2_subset_sweep": ("subset_sweep",),
    "phase2_scale_sweep": ("scale_sweep",),
    CONTINUATION_JOB: ("continuation_ablation",),
    POSITIVE_CONTROL_JOB: ("positive_control",),
    "make_report_phase2": ("phase2_report",),
}

SCAN_JOBS: dict[str, tuple[str, ...]] = {
    "phase1_logit_lens": ("logit_lens",),
    "phase1_component_importance": ("component_importance",),
    "phase1_selected_components": ("selected_components",),
}
"""There only where the experiment file has a section `scan`."""


def jobs(experiment: Experiment) -> list:
    """The experiment's jobs: one for a cell, one for each whole-sweep step."""
    cell_keys = [dg.AssetKey([experiment.name, name]) for name in CELL_ASSETS]
    cells = dg.define_asset_job(
        CELLS_JOB,
        selection=dg.AssetSelection.assets(*cell_keys),
        description="Generations, detections, metrics and report of one cell.",
    )
    sweep = [
        dg.define_asset_job(
            name,
            selection=dg.AssetSelection.assets(*(dg.AssetKey([experiment.name, asset]) for asset in assets)),
            description=f"Whole sweep: {', '.join(assets)}. Needs its cells first.",
        )
        for name, assets in {**_SELECTED, **({} if experiment.scan is None else SCAN_JOBS)}.items()
        if (name != CONTINUATION_JOB or experiment.continuation is not None)
        and (name != POSITIVE_CONTROL_JOB or experiment.positive_control is not None)
    ]
    return [cells, *sweep]
