"""Partitions of the asset graph: layer subset x scale."""

import dagster as dg

from backtracking_assets.experiment import Experiment, scale_key
from backtracking_assets.records import Cell

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


def cell_key(cell: Cell) -> dg.MultiPartitionKey:
    """The partition key of a cell, such as `mlp_27_only|0.25`."""
    return dg.MultiPartitionKey({LAYER_SUBSET: cell.layer_subset, SCALE: scale_key(cell.scale)})


def cell_of(key: dg.MultiPartitionKey) -> Cell:
    """The cell of a partition key."""
    dimensions = key.keys_by_dimension
    return Cell(dimensions[LAYER_SUBSET], float(dimensions[SCALE]))
