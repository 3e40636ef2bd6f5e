"""Recording in Dagster what the store holds of phase 1's results on variants and conditions, and of its page."""

from typing import Any

import dagster as dg

from backtracking_assets.assets.event_log import (
    Input,
    input_of,
    input_of_partitions,
    record_materialization,
    recorded,
    recorded_partitions,
)
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.phase1 import FIGURES, phase1_assets
from backtracking_assets.assets.phase1_contents import (
    phase1_is_reported,
    phase1_report,
    phase1_report_path,
    phase1_version,
)
from backtracking_assets.assets.phase1_metadata import phase1_report_metadata, section_metadata
from backtracking_assets.assets.phase1_results import RESULTS, current_rows, result_version
from backtracking_assets.assets.phase1_results_sections import RESULT_SOURCES
from backtracking_assets.assets.stored_variants import variants_of
from backtracking_assets.partitions import cell_key
from backtracking_assets.records import Cell

_DESCRIPTION = "Recorded from the store: this is there, and no run of this Dagster instance made it."
_REPORT = "phase1_report"


def record_phase1(instance: dg.DagsterInstance, opened: OpenExperiment) -> list[str]:
    """Record what is current and Dagster's record lacks or has in another version; all that it is made from is before.

    Returns the assets that were recorded.

    Raises:
        BacktrackingError: the store cannot be read.
    """
    if opened.experiment.phase1 is None:
        return []
    specs = {spec.key.path[-1]: spec for made in phase1_assets(opened.experiment) for spec in made.specs}
    done: list[str] = []
    for asset, version in _versions(opened).items():
        spec = specs[asset]
        found = recorded(instance, spec.key)
        if version is None or (found is not None and found.data_version == version):
            continue
        record_materialization(
            instance,
            spec,
            partition=None,
            data_version=version,
            inputs=[_input(instance, opened, dep.asset_key) for dep in spec.deps],
            metadata=_metadata(opened, asset),
            description=_DESCRIPTION,
        )
        done.append(asset)
    return done


def _versions(opened: OpenExperiment) -> dict[str, str | None]:
    """The data version of each asset that is current, upstream first; None for one that is not."""
    versions = {asset: result_version(result, opened) for asset, result in RESULTS.items()}
    there = phase1_report_path(opened).is_file() and phase1_is_reported(opened)
    return {**versions, _REPORT: phase1_version(opened) if there else None}


def _input(instance: dg.DagsterInstance, opened: OpenExperiment, key: dg.AssetKey) -> Input:
    experiment = opened.experiment
    if key.path[-1] == "variant_metrics":
        names = [variant.name for variant in variants_of(experiment)]
    elif key.path[-1] == "metrics":
        grid = (Cell(subset, scale) for subset in experiment.all_subsets() for scale in experiment.scales)
        names = [str(cell_key(cell)) for cell in grid]
    else:
        return input_of(key, recorded(instance, key))
    return input_of_partitions(key, recorded_partitions(instance, key), names)


def _metadata(opened: OpenExperiment, asset: str) -> dict[str, Any]:
    if asset == _REPORT:
        return phase1_report_metadata(phase1_report(opened), phase1_report_path(opened))
    rows = current_rows(RESULTS[asset], opened)
    assert rows is not None  # it has a version
    return section_metadata(RESULT_SOURCES[asset].build(opened), FIGURES[asset](opened), rows)
