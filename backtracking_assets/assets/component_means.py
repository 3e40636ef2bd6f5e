"""The asset `component_means`: the mean outputs that components can be scaled towards."""

from typing import Any

import dagster as dg

from backtracking_assets.assets.averaging import ensure_means, stored_means
from backtracking_assets.assets.checks import check_results
from backtracking_assets.assets.compositions import MEANS
from backtracking_assets.assets.failures import readable_failures
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.presentation import png_figure
from backtracking_assets.errors import StorageError
from backtracking_assets.execution.gpu_executor import GPU_POOL
from backtracking_assets.experiment import Experiment
from backtracking_assets.reporting.contents import CheckOutcome
from backtracking_assets.reporting.means_figure import means_figure
from backtracking_assets.reporting.style import to_png
from backtracking_assets.storage.means import MEANS_VERSION, MeansNote, means_path

_FEW_POSITIONS = 1_000
"""Below, a mean may say more of its problems than of the model."""

CHECKS = {"enough_positions": f"The means are taken over {_FEW_POSITIONS:,} decode positions at least."}


def means_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """The asset, where a subset of the experiment file is scaled towards means."""
    return [_component_means(experiment)] if experiment.needs_means else []


def _component_means(experiment: Experiment) -> dg.AssetsDefinition:
    key = [experiment.name, MEANS]

    @dg.asset(
        key=key,
        deps=[[experiment.name, name] for name in ("problems", "model_checkpoint", "sampling_settings")],
        group_name=f"{experiment.name}_phase2",
        description="The mean output of every attention and MLP block over the baseline's decode positions, on "
        "problems that the sweep does not ask.",
        kinds={"pytorch"},
        code_version=MEANS_VERSION,
        pool=GPU_POOL,
        check_specs=[dg.AssetCheckSpec(name, asset=key, description=meaning) for name, meaning in CHECKS.items()],
    )
    @readable_failures
    def component_means(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        opened = OpenExperiment(experiment)
        opened.layout.prepare()
        note, computed_now = ensure_means(opened, run_id=context.run.run_id, log=context.log.info)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(note.means),
            check_results=check_results([_enough_positions(note)]),
            metadata={"computed_now": computed_now, **means_metadata(OpenExperiment(experiment))},
        )

    return component_means


def means_metadata(opened: OpenExperiment) -> dict[str, Any]:
    """Of `component_means`: what they were computed from, and how much of each output its mean is.

    Raises:
        StorageError: they are not there.
    """
    note = stored_means(opened)
    if note is None:
        raise StorageError("The means are not there; materialize component_means first.")
    return {
        "completions": note.n_completions,
        "positions": note.n_positions,
        "held_out_problems": opened.experiment.means.problems,
        "device": note.device,
        "computed_by": dg.MetadataValue.dagster_run(note.run_id),
        "file": dg.MetadataValue.path(str(means_path(opened.layout, note.means))),
        "figure": png_figure(to_png(means_figure(note.shares), 96), "How much of each output its mean is"),
    }


def _enough_positions(note: MeansNote) -> CheckOutcome:
    return CheckOutcome(
        "enough_positions",
        note.n_positions >= _FEW_POSITIONS,
        "warning",
        f"The means are taken over {note.n_positions:,} decode positions of {note.n_completions:,} completions.",
    )
