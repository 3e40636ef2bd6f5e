"""Source assets: what an experiment starts from, identified by content.

Plain assets rather than observable sources: those are a preview API, take no upstream, and a partitioned one records an
empty hash for the cells that depend on it. `record_sources` writes their versions before any cell runs, so lineage is
complete from the first cell on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from backtracking_assets.assets.compositions import MEANS
from backtracking_assets.assets.event_log import DATA_VERSION_TAG, recorded, recorded_partitions
from backtracking_assets.assets.failures import readable_failures
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.presentation import inline_md
from backtracking_assets.conditions import digest
from backtracking_assets.experiment import Experiment
from backtracking_assets.layer_subsets import SELECTED, DerivedSubset
from backtracking_assets.partitions import layer_subset_partitions


@dataclass(frozen=True)
class SourceVersion:
    """The content of one source as Dagster records it."""

    data_version: str
    metadata: Mapping[str, Any]


def problems_version(opened: OpenExperiment) -> SourceVersion:
    source = opened.experiment.problems
    first = [problem for _, problem in zip(range(3), opened.problems.values(), strict=False)]
    return SourceVersion(
        opened.problem_set_digest,
        {
            "problems": len(opened.problems),
            "samples_per_problem": source.samples,
            "draw_seed": source.seed,
            "source": str(source.path) if source.path is not None else f"{source.hub}",
            "first_problems": dg.MetadataValue.md(
                "\n".join(
                    f"- {inline_md(problem.problem_id)}: {inline_md(problem.question)} → {inline_md(problem.answer)}"
                    for problem in first
                )
            ),
        },
    )


def checkpoint_version(opened: OpenExperiment) -> SourceVersion:
    checkpoint = opened.checkpoint
    return SourceVersion(
        digest([checkpoint.weights_digest, checkpoint.tokenizer_digest]),
        {
            "weights_digest": checkpoint.weights_digest,
            "tokenizer_digest": checkpoint.tokenizer_digest,
            "model_type": checkpoint.model_type,
            "layers": checkpoint.n_layers,
            "size_mb": round(checkpoint.n_bytes / 1e6, 1),
            "folder": dg.MetadataValue.path(str(checkpoint.folder)),
        },
    )


def sampling_version(opened: OpenExperiment) -> SourceVersion:
    settings = opened.experiment.sampling.model_dump(mode="json")
    return SourceVersion(opened.sampling_digest, {**settings, "prompt_variant": opened.experiment.prompting.variant})


def subset_version(opened: OpenExperiment, layer_subset: str) -> SourceVersion:
    """What a subset is made of.

    Raises:
        WaitingError: that is not there yet.
    """
    composition = opened.composition(layer_subset)
    names = composition.names()
    control_of = opened.experiment.control_of(layer_subset)
    metadata = {
        "components": ", ".join(names),
        "n_components": len(composition.components),
        "matched_to": control_of or "targeted subset",
    }
    if composition.means_digest is not None:
        metadata["means"] = composition.means_digest
    return SourceVersion(digest(composition.identity()), metadata)


_UNPARTITIONED: dict[str, tuple[str, Callable[[OpenExperiment], SourceVersion]]] = {
    "problems": ("The problems that are asked, drawn by the hash of (seed, id).", problems_version),
    "model_checkpoint": ("Weights and tokenizer, identified by the digests of their files.", checkpoint_version),
    "sampling_settings": ("Prompt variant, temperature, top-p, token cap and seed.", sampling_version),
}


def source_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """`problems`, `model_checkpoint`, `sampling_settings`, and `layer_subsets` by subset."""
    assets = [_source_asset(experiment, name, *found) for name, found in _UNPARTITIONED.items()]

    @dg.asset(
        key=[experiment.name, "layer_subsets"],
        deps=[[experiment.name, name] for name in _made_of(experiment)],
        partitions_def=layer_subset_partitions(experiment),
        group_name=f"{experiment.name}_layer_subsets",
        description="The components of each layer subset; the random controls are drawn by their seed.",
        kinds={"yaml"},
    )
    @readable_failures
    def layer_subsets(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        return _result(subset_version(OpenExperiment(experiment), context.partition_key))

    return [*assets, layer_subsets]


def _made_of(experiment: Experiment) -> list[str]:
    """Assets of this study whose results decide what a subset is made of."""
    subsets = experiment.layer_subsets.values()
    ranked = any(isinstance(subset, DerivedSubset) and subset.source == SELECTED for subset in subsets)
    return [MEANS] * experiment.needs_means + [SELECTED] * ranked


def _source_asset(
    experiment: Experiment, name: str, description: str, version: Callable[[OpenExperiment], SourceVersion]
) -> dg.AssetsDefinition:
    @dg.asset(key=[experiment.name, name], group_name=f"{experiment.name}_sources", description=description)
    @readable_failures
    def source() -> dg.MaterializeResult:
        return _result(version(OpenExperiment(experiment)))

    return source


def _result(version: SourceVersion) -> dg.MaterializeResult:
    return dg.MaterializeResult(data_version=dg.DataVersion(version.data_version), metadata=version.metadata)


def record_sources(instance: dg.DagsterInstance, opened: OpenExperiment) -> int:
    """Record the content of every source whose recorded version differs; returns how many were recorded.

    A layer subset that waits for what it is made of is left as it is.

    Raises:
        BacktrackingError: a source is missing or malformed. Nothing is recorded then.
    """
    experiment = opened.experiment
    wanted: list[tuple[dg.AssetKey, str | None, SourceVersion]] = [
        (dg.AssetKey([experiment.name, name]), None, version(opened)) for name, (_, version) in _UNPARTITIONED.items()
    ]
    subsets = dg.AssetKey([experiment.name, "layer_subsets"])
    known = [name for name in experiment.all_subsets() if opened.waits_for(name) is None]
    wanted += [(subsets, name, subset_version(opened, name)) for name in known]
    subsets_before = recorded_partitions(instance, subsets)
    n_recorded = 0
    for key, partition, version in wanted:
        before = recorded(instance, key) if partition is None else subsets_before.get(partition)
        if before is not None and before.data_version == version.data_version:
            continue
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                asset_key=key,
                partition=partition,
                metadata=dict(version.metadata),
                tags={DATA_VERSION_TAG: version.data_version},
            )
        )
        n_recorded += 1
    return n_recorded
