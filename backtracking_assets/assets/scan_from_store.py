"""Recording in Dagster what the store holds of phase 1's scan."""

import dagster as dg

from backtracking_assets.assets.event_log import (
    input_of,
    input_of_partitions,
    record_materialization,
    recorded,
    recorded_partitions,
)
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.scan import METADATA, scan_assets
from backtracking_assets.assets.scanning import data_versions
from backtracking_assets.assets.stored_variants import variants_of

_DESCRIPTION = "Recorded from the store: this is there, and no run of this Dagster instance made it."


def record_scan(instance: dg.DagsterInstance, opened: OpenExperiment) -> list[str]:
    """Record what is current and Dagster's record lacks or has in another version; variants are recorded before.

    Returns the assets that were recorded.

    Raises:
        BacktrackingError: the store cannot be read.
    """
    if opened.experiment.scan is None:
        return []
    specs = {spec.key.path[-1]: spec for made in scan_assets(opened.experiment) for spec in made.specs}
    variants = [variant.name for variant in variants_of(opened.experiment)]
    done: list[str] = []
    for asset, version in data_versions(opened).items():
        spec = specs[asset]
        found = recorded(instance, spec.key)
        if found is not None and found.data_version == version:
            continue
        inputs = [
            input_of_partitions(dep.asset_key, recorded_partitions(instance, dep.asset_key), variants)
            if dep.asset_key.path[-1] == "variant_detections"
            else input_of(dep.asset_key, recorded(instance, dep.asset_key))
            for dep in spec.deps
        ]
        record_materialization(
            instance,
            spec,
            partition=None,
            data_version=version,
            inputs=inputs,
            metadata=METADATA[asset](opened),
            description=_DESCRIPTION,
        )
        done.append(asset)
    return done
