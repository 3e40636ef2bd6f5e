"""Jobs under the reference study's step names, and what the command line does for each of them."""

from dataclasses import dataclass

import dagster as dg

from backtracking_assets.assets.compositions import MEANS
from backtracking_assets.assets.whole_study import (
    CONTINUATION_JOB,
    POSITIVE_CONTROL_JOB,
    REPORT_JOB,
    WHOLE_STUDY,
    NeedsCell,
    WholeStudyJob,
    compared_cells,
    every_cell,
)
from backtracking_assets.experiment import Experiment
from backtracking_assets.records import Subject, Variant

CELL_ASSETS = ("generations", "detections", "metrics", "condition_reports")
"""The assets of a cell, upstream first."""

VARIANT_ASSETS = ("variant_generations", "variant_detections", "variant_metrics")
"""The assets of a prompt variant, upstream first."""

CELLS_JOB = "phase2_cells"
"""The four assets of one cell; a run of it is launched for each cell."""

VARIANTS_JOB = "phase1_variants"
"""The three assets of one prompt variant; there only where the experiment file has a section `phase1`."""

PHASE1_JOBS = (
    "phase1_formatting_sweep",
    "metrics_v2",
    "phase1_logit_lens",
    "phase1_component_importance",
    "phase1_selected_components",
    "phase1_compare_conditions",
    "make_report_phase1",
)
"""Jobs of phase 1 as a whole, in the order in which they are run, as far as `WHOLE_STUDY` has them."""

PHASE2_JOBS = ("phase2_subset_sweep", "phase2_scale_sweep", CONTINUATION_JOB, POSITIVE_CONTROL_JOB, REPORT_JOB)

FULL_STUDY, PHASE1, PHASE2 = "full_study", "phase1", "phase2"


def job_of(subject: Subject) -> str:
    """The job that makes a cell or a prompt variant."""
    return VARIANTS_JOB if isinstance(subject, Variant) else CELLS_JOB


def assets_between(subject: Subject, first: str | None, last: str | None) -> tuple[str, ...]:
    """The assets of a cell or a prompt variant from one to another, both included; None is the first or last of all."""
    assets = VARIANT_ASSETS if isinstance(subject, Variant) else CELL_ASSETS
    begin = 0 if first is None else assets.index(first)
    return assets[begin : len(assets) if last is None else assets.index(last) + 1]


@dataclass(frozen=True)
class Step:
    """A step of the study: the variants and cells that it needs, and jobs of the whole study."""

    cells: NeedsCell
    variants: bool
    jobs: tuple[str, ...]


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name in WHOLE_STUDY)


def _step(name: str, job: WholeStudyJob) -> Step:
    # What it looks at is made before it, so that the step does something for whoever asks for it first.
    return Step(job.cells, job.looks_at_variants, (*_known(job.after), name))


STEPS: dict[str, Step] = {
    FULL_STUDY: Step(every_cell, True, _known((*PHASE1_JOBS, *PHASE2_JOBS))),
    PHASE1: Step(compared_cells, True, _known(PHASE1_JOBS)),
    PHASE2: Step(every_cell, False, _known(PHASE2_JOBS)),
    **{name: _step(name, WHOLE_STUDY[name]) for name in _known((*PHASE1_JOBS, MEANS, *PHASE2_JOBS))},
}
"""What `backtracking sweep --job NAME` does."""


def asked_jobs(experiment: Experiment, names: tuple[str, ...]) -> list[str]:
    """Those of some jobs of the whole study that the experiment has."""
    return [name for name in names if WHOLE_STUDY[name].is_asked(experiment)]


def refuse_unasked(experiment: Experiment, step_name: str) -> None:
    """Refuse a step whose section the experiment file does not have; `full_study` and `phase2` do what the file has.

    Raises:
        ExperimentError: with the section that is missing.
    """
    if step_name == PHASE1:
        experiment.for_variant(experiment.prompting.variant)
    elif step_name not in (FULL_STUDY, PHASE2) and (settings := WHOLE_STUDY[step_name].settings) is not None:
        settings(experiment)


def jobs(experiment: Experiment) -> list:
    """The experiment's jobs: one for a cell, one for a prompt variant, one for each step of the whole study."""
    found = [_job(experiment, CELLS_JOB, CELL_ASSETS, "Generations, detections, metrics and report of one cell.")]
    if experiment.phase1 is not None:
        said = "Generations, detections and metrics of one prompt variant."
        found.append(_job(experiment, VARIANTS_JOB, VARIANT_ASSETS, said))
    for name in asked_jobs(experiment, tuple(WHOLE_STUDY)):
        assets = WHOLE_STUDY[name].assets
        study = "Whole phase 1" if name in PHASE1_JOBS else "Whole sweep"
        needed = "variants" if name in PHASE1_JOBS else "cells"
        said = f"{study}: {', '.join(assets)}. Needs its {needed} first."
        if name == MEANS:
            said = "The means that outputs are scaled towards. Cells of such subsets need them first."
        found.append(_job(experiment, name, assets, said))
    return found


def _job(experiment: Experiment, name: str, assets: tuple[str, ...], description: str):
    keys = [dg.AssetKey([experiment.name, asset]) for asset in assets]
    return dg.define_asset_job(name, selection=dg.AssetSelection.assets(*keys), description=description)
