"""Phase 1's assets of a prompt variant: variant_generations, variant_detections, variant_metrics."""

import dagster as dg

from backtracking_assets.analysis.detection import rules_digest
from backtracking_assets.analysis.statistics_settings import statistics_digest
from backtracking_assets.assets.cell_metadata import (
    detections_metadata,
    generations_metadata,
    variant_metrics_metadata,
)
from backtracking_assets.assets.checks import check_results, check_specs, fail_on_errors
from backtracking_assets.assets.failures import readable_failures
from backtracking_assets.assets.generating import ensure_condition, link_to_completions
from backtracking_assets.assets.measuring import check_completions, measure_variant, read_variant
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.progress import logged
from backtracking_assets.assets.pushing import cell_finished
from backtracking_assets.assets.stored_variants import (
    StoredVariant,
    current_variant,
    linked_variant,
)
from backtracking_assets.conditions import GENERATOR_VERSION, digest
from backtracking_assets.execution.gpu_executor import GPU_POOL
from backtracking_assets.experiment import Experiment
from backtracking_assets.fault_points import reached
from backtracking_assets.partitions import variant_partitions
from backtracking_assets.records import Variant


def variant_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """The assets of a prompt variant, upstream first; none where the experiment file has no phase 1."""
    if experiment.phase1 is None:
        return []
    return [_variant_generations(experiment), _variant_detections(experiment), _variant_metrics(experiment)]


def asked_version(experiment: Experiment) -> str:
    """Digest of the engine's version and of what phase 1 asks that no source asset has: problems, samples, prompts."""
    phase1 = experiment.phase1
    assert phase1 is not None
    prompts = experiment.prompting.model_dump(mode="json", exclude={"variant"})
    return digest([GENERATOR_VERSION, phase1.count, phase1.samples, prompts])[:12]


def sweeps_variant(stored: StoredVariant, opened: OpenExperiment) -> StoredVariant | None:
    """The variant that the sweep uses, which another is shown beside; None for itself and while it is not there."""
    return None if stored.of_sweep else current_variant(opened, opened.experiment.prompting.variant)


def _variant_generations(experiment: Experiment) -> dg.AssetsDefinition:
    @dg.asset(
        key=[experiment.name, "variant_generations"],
        partitions_def=variant_partitions(experiment),
        deps=[[experiment.name, name] for name in ("problems", "model_checkpoint", "sampling_settings")],
        group_name=f"{experiment.name}_phase1",
        description="Completions of a prompt variant without intervention, on the sweep's problems and those held out.",
        kinds={"pytorch", "duckdb"},
        code_version=asked_version(experiment),
        pool=GPU_POOL,
        check_specs=check_specs(experiment, "variant_generations"),
    )
    @readable_failures
    def variant_generations(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        opened, name, run_id = OpenExperiment(experiment), context.partition_key, context.run.run_id
        own = opened.for_variant(name)

        def link() -> None:
            link_to_completions(own, Variant(name), own.baseline.fingerprint, run_id=run_id)
            reached("cell linked", str(Variant(name)))

        log = context.log.info
        made = ensure_condition(
            own, own.baseline, Variant(name), run_id=run_id, log=log, on_progress=logged(log), link=link
        )
        stored = linked_variant(opened, name)
        outcomes = check_completions(stored, run_id, None, with_model=True)
        fail_on_errors(Variant(name), outcomes)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(stored.completions_version()),
            check_results=check_results(outcomes),
            metadata={"generated_now": made.n_generated, "linked": made.linked, **generations_metadata(stored)},
        )

    return variant_generations


def _variant_detections(experiment: Experiment) -> dg.AssetsDefinition:
    @dg.asset(
        key=[experiment.name, "variant_detections"],
        partitions_def=variant_partitions(experiment),
        deps=[[experiment.name, "variant_generations"]],
        group_name=f"{experiment.name}_phase1",
        description="Triggers, answers, degeneration and exact steps, found in each completion of a prompt variant.",
        kinds={"duckdb"},
        code_version=rules_digest(experiment.detection)[:12],
        check_specs=check_specs(experiment, "variant_detections"),
    )
    @readable_failures
    def variant_detections(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        opened, name = OpenExperiment(experiment), context.partition_key
        stored, outcomes = read_variant(opened, name, context.run.run_id)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(stored.version()),
            check_results=check_results(outcomes),
            metadata=detections_metadata(stored, sweeps_variant(stored, opened)),
        )

    return variant_detections


def _variant_metrics(experiment: Experiment) -> dg.AssetsDefinition:
    @dg.asset(
        key=[experiment.name, "variant_metrics"],
        partitions_def=variant_partitions(experiment),
        deps=[[experiment.name, "variant_detections"]],
        group_name=f"{experiment.name}_phase1",
        description="Rates of a prompt variant with intervals clustered by problem, and their denominators.",
        kinds={"duckdb"},
        code_version=statistics_digest(experiment.statistics)[:12],
        check_specs=check_specs(experiment, "variant_metrics"),
    )
    @readable_failures
    def variant_metrics(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        opened, name = OpenExperiment(experiment), context.partition_key
        stored, _, outcomes = measure_variant(opened, name, context.run.run_id)
        fail_on_errors(Variant(name), outcomes)
        cell_finished(experiment, context.log.warning)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(stored.metrics_version()),
            check_results=check_results(outcomes),
            metadata=variant_metrics_metadata(stored, sweeps_variant(stored, opened)),
        )

    return variant_metrics
