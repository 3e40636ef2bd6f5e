"""Prompt variants from what the store holds: restored from their completions, and recorded in Dagster."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from backtracking_assets.assets.cell_metadata import (
    detections_metadata,
    generations_metadata,
    variant_metrics_metadata,
)
from backtracking_assets.assets.event_log import (
    input_of,
    input_of_partitions,
    record_materialization,
    recorded,
    recorded_partitions,
)
from backtracking_assets.assets.generating import link_to_completions
from backtracking_assets.assets.graph import experiment_assets
from backtracking_assets.assets.jobs import VARIANT_ASSETS
from backtracking_assets.assets.measuring import check_completions, measure_variant, read_variant
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.prompts_asked import changed_problem
from backtracking_assets.assets.stored_cells import failed
from backtracking_assets.assets.stored_variants import (
    StoredVariant,
    is_current,
    is_measured,
    linked_variant,
    stored_variants,
    variant_checks_of,
)
from backtracking_assets.assets.variant_status import variants_status
from backtracking_assets.assets.variants import sweeps_variant
from backtracking_assets.records import Variant
from backtracking_assets.storage import queries

_DESCRIPTION = "Recorded from the store: this is there, and no run of this Dagster instance made it."


def restore_variants(opened: OpenExperiment, run_id: str) -> tuple[list[Variant], dict[Variant, str]]:
    """Link, check, read and measure every variant whose completions are all in the database and that is not done.

    Returns those that are done now, and those that cannot be used, with the reason.

    Raises:
        BacktrackingError: a source is missing or unfit, or the store cannot be written.
    """
    restored, refused = [], {}
    for status in variants_status(opened):
        own = opened.for_variant(status.variant.name)
        counts = queries.wanted_counts(own.layout, list(own.problems), own.experiment.problems.samples)
        if status.state == "done" or counts.get(own.baseline.fingerprint) != status.n_planned:
            continue
        if (reason := _restore(opened, own, status.variant, run_id)) is None:
            restored.append(status.variant)
        else:
            refused[status.variant] = reason
    return restored, refused


def _restore(opened: OpenExperiment, own: OpenExperiment, variant: Variant, run_id: str) -> str | None:
    """Restore a variant; why it cannot be used, or None."""
    stored = stored_variants(opened).get(variant)
    if stored is None or not is_current(stored):
        fingerprint = own.baseline.fingerprint
        if changed := changed_problem(own, fingerprint):
            return f"problem {changed!r} has another text now than when its completions were made"
        link_to_completions(own, variant, fingerprint, run_id=run_id)
    stored = linked_variant(opened, variant.name)
    outcomes = list(variant_checks_of(opened, "variant_generations").get(variant, ()))
    if broken := failed(outcomes or check_completions(stored, run_id, None)):
        return f"its check {broken[0].name} fails: {broken[0].description}"
    read_variant(opened, variant.name, run_id)
    _, _, outcomes = measure_variant(opened, variant.name, run_id)
    if broken := failed(outcomes):
        return f"its check {broken[0].name} fails: {broken[0].description}"
    return None


def record_variants(instance: dg.DagsterInstance, opened: OpenExperiment) -> list[tuple[str, Variant]]:
    """Record what the store holds of current variants and Dagster's record lacks or has in another version.

    The sources are recorded before. Returns the assets that were recorded, with their variant.

    Raises:
        BacktrackingError: the store cannot be read.
    """
    done: list[tuple[str, Variant]] = []
    stored_now = stored_variants(opened)
    if not stored_now:
        return done
    names = {spec.key.path[-1]: spec for made in experiment_assets(opened.experiment) for spec in made.specs}
    specs = {name: names[name] for name in VARIANT_ASSETS}
    for variant, stored in stored_now.items():
        broken = {asset for asset in specs if failed(variant_checks_of(opened, asset).get(variant, ()))}
        for asset, version in _held(stored, broken):
            spec = specs[asset]
            found = recorded_partitions(instance, spec.key).get(variant.name)
            if found is not None and found.data_version == version:
                continue
            inputs = [
                input_of_partitions(dep.asset_key, recorded_partitions(instance, dep.asset_key), [variant.name])
                if dep.asset_key.path[-1] in specs
                else input_of(dep.asset_key, recorded(instance, dep.asset_key))
                for dep in spec.deps
            ]
            record_materialization(
                instance,
                spec,
                partition=variant.name,
                data_version=version,
                inputs=inputs,
                metadata=_metadata(asset, opened, stored),
                description=_DESCRIPTION,
            )
            done.append((asset, variant))
    return done


def _held(stored: StoredVariant, broken: set[str]) -> Iterator[tuple[str, str]]:
    """The assets of a variant that are what the experiment file asks for now, with their data version."""
    if not is_current(stored) or "variant_generations" in broken:
        return
    yield "variant_generations", stored.completions_version()
    if not stored.detected:
        return
    yield "variant_detections", stored.version()
    if is_measured(stored) and "variant_metrics" not in broken:
        yield "variant_metrics", stored.metrics_version()


def _metadata(asset: str, opened: OpenExperiment, stored: StoredVariant) -> dict[str, Any]:
    if asset == "variant_generations":
        return generations_metadata(stored)
    beside = sweeps_variant(stored, opened)
    if asset == "variant_detections":
        return detections_metadata(stored, beside)
    return variant_metrics_metadata(stored, beside)
