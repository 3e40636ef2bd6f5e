"""Partitions of the asset graph: layer subset x scale, and the prompt variants of phase 1."""

import dagster as dg

from backtracking_assets.experiment import Experiment, scale_key
from backtracking_assets.records import Cell, Subject, Variant

LAYER_SUBSET = "layer_subset"
SCALE = "scale"


def layer_subset_partitions(experiment: Experiment) -> dg.StaticPartitionsDefinition:
    return dg.StaticPartitionsDefinition(list(experiment.all_subsets()))


def grid_partitions(experiment: Experiment) -> dg.MultiPartitionsDefinition:
    return dg.MultiPartitionsDefinition(
        {
            LAYER_SUBSET: layer_subset_partitions(experiment),
            SCALE: dg.StaticPartitionsDefinition([scale_key(scale) for scale in experiment.scales]),
        }
    )


def variant_partitions(experiment: Experiment) -> dg.StaticPartitionsDefinition:
    return dg.StaticPartitionsDefinition(list(experiment.prompting.variants))


def cell_key(cell: Cell) -> dg.MultiPartitionKey:
    """The partition key of a cell, such as `mlp_27_only|0.25`."""
    return dg.MultiPartitionKey({LAYER_SUBSET: cell.layer_subset, SCALE: scale_key(cell.scale)})


def subject_key(subject: Subject) -> dg.MultiPartitionKey | str:
    """The partition key of a cell or of a prompt variant."""
    return subject.name if isinstance(subject, Variant) else cell_key(subject)


def cell_of(key: dg.MultiPartitionKey) -> Cell:
    """The cell of a partition key."""
    dimensions = key.keys_by_dimension
    return Cell(dimensions[LAYER_SUBSET], float(dimensions[SCALE]))
