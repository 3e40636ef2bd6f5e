"""What the store holds of phase 1's prompt variants: their rows, completions, detections, metrics and checks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.stored_cells import StoredCell, failed, outcomes_by
from backtracking_assets.assets.stored_completions import StoredCompletions
from backtracking_assets.conditions import Condition
from backtracking_assets.errors import StorageError
from backtracking_assets.experiment import Experiment
from backtracking_assets.records import Problem, Variant
from backtracking_assets.reporting.contents import CheckOutcome
from backtracking_assets.storage import queries

if TYPE_CHECKING:  # pandas is imported only where something is measured
    from backtracking_assets.analysis.counts import CellRows


@dataclass(frozen=True)
class StoredVariant(StoredCompletions):
    """A prompt variant that is linked to its completions; `opened` is the variant's own experiment."""

    variant: Variant
    of_sweep: bool
    """Whether the sweep uses this variant, so that its completions are the baseline's and more."""

    @property
    def subject(self) -> Variant:
        return self.variant

    @property
    def condition(self) -> Condition:
        """The condition that the experiment file asks for now."""
        return self.opened.baseline

    @property
    def rows(self) -> "CellRows":
        from backtracking_assets.analysis.counts import CellRows

        return CellRows(self.variant, self.completions, self.detections)


Stored = StoredCell | StoredVariant
"""A cell or a prompt variant in the store."""


def variants_of(experiment: Experiment) -> tuple[Variant, ...]:
    """The prompt variants of phase 1, the one that the sweep uses first; none without a phase 1."""
    if experiment.phase1 is None:
        return ()
    names = sorted(experiment.prompting.variants, key=lambda name: name != experiment.prompting.variant)
    return tuple(Variant(name) for name in names)


def problems_outside_sweep(opened: OpenExperiment) -> dict[str, Problem]:
    """The problems of phase 1 that the sweep does not use, by id, in the order in which they are asked.

    Raises:
        ExperimentError: there is no phase 1.
    """
    everything = opened.for_variant(opened.experiment.prompting.variant).problems
    return {name: problem for name, problem in everything.items() if name not in opened.problems}


def linked_variant(opened: OpenExperiment, name: str) -> StoredVariant:
    """A prompt variant whose completions are what the experiment file asks for now.

    Raises:
        ExperimentError: there is no phase 1, or no such variant.
        StorageError: the completions are not there, or are those of an earlier experiment file, checkpoint or problem
            file.
    """
    stored = stored_variants(opened).get(Variant(name))
    if stored is None:
        opened.experiment.for_variant(name)  # raises where the variant is unknown
        raise StorageError(f"Prompt variant {name} has no completions yet; materialize its variant_generations first.")
    if not is_current(stored):
        raise StorageError(
            f"Prompt variant {name} holds completions that the experiment does not ask for any more: its checkpoint, "
            "problems, sampling or prompt have changed; materialize its variant_generations first."
        )
    return stored


def detected_variant(opened: OpenExperiment, name: str) -> StoredVariant:
    """A linked variant whose completions are read by the rules of the experiment file as it is now.

    Raises:
        StorageError: see `linked_variant`, or the detections are missing or by other rules.
    """
    stored = linked_variant(opened, name)
    if not stored.detected:
        raise StorageError(
            f"Prompt variant {name} is not read by the rules as they are now; materialize its variant_detections first."
        )
    return stored


def current_variant(opened: OpenExperiment, name: str) -> StoredVariant | None:
    """A variant that is current, read by the rules as they are now, and fails no check that must hold; None if not.

    Raises:
        ExperimentError: there is no phase 1, or no such variant.
    """
    opened.experiment.for_variant(name)
    stored = stored_variants(opened).get(Variant(name))
    if stored is None or not stored.detected or not is_current(stored):
        return None
    return None if failed(variant_checks_of(opened).get(stored.variant, ())) else stored


def current_variants(opened: OpenExperiment) -> list[StoredVariant]:
    """Those of phase 1's variants that `current_variant` finds, in the order of `variants_of`."""
    found = (current_variant(opened, variant.name) for variant in variants_of(opened.experiment))
    return [stored for stored in found if stored is not None]


def is_current(stored: StoredVariant) -> bool:
    """Whether a stored variant's completions are what the experiment file asks for now."""
    return stored.is_asked_for(stored.condition.fingerprint)


def stored_variants(opened: OpenExperiment) -> dict[Variant, StoredVariant]:
    """Every variant of the experiment file that is linked to completions, whichever these are."""
    asked = set(variants_of(opened.experiment))
    rows = queries.variants(opened.layout).drop_columns(["committed_at"]).to_pylist()  # as those of cells
    return {Variant(row["variant"]): stored_row(opened, row) for row in rows if Variant(row["variant"]) in asked}


def stored_row(opened: OpenExperiment, row: Mapping[str, Any]) -> StoredVariant:
    """A variant from its row in the table of variants; `opened` is the study's experiment."""
    name = row["variant"]
    return StoredVariant(
        opened.for_variant(name),
        row["fingerprint"],
        row["problem_set_digest"],
        row["n_samples"],
        row["rules_digest"],
        Variant(name),
        name == opened.experiment.prompting.variant,
    )


def measured_variants(opened: OpenExperiment) -> dict[Variant, str]:
    """The digest of the statistics that each measured variant's metrics were computed by."""
    table = queries.variant_metrics(opened.layout)
    columns = (table[name].to_pylist() for name in ("variant", "statistics_digest"))
    return {Variant(name): by for name, by in zip(*columns, strict=True)}


def is_measured(stored: StoredVariant) -> bool:
    """Whether the variant's metrics are computed by the statistics of the experiment file as it is now."""
    wanted = stored.opened.statistics_digest
    return measured_variants(stored.opened).get(stored.variant) == wanted


def metrics_of_variant(opened: OpenExperiment, variant: Variant) -> pa.Table:
    """A variant's rows of `variant_records.VARIANT_METRICS`."""
    return queries.variant_metrics(opened.layout).filter(pc.field("variant") == variant.name)


def variant_checks_of(opened: OpenExperiment, asset: str | None = None) -> dict[Variant, tuple[CheckOutcome, ...]]:
    """The outcomes of all checks by variant, or of those of one asset."""
    rows = queries.variant_checks(opened.layout).to_pylist()
    return outcomes_by_variant(row for row in rows if asset in (None, row["asset"]))


def outcomes_by_variant(rows: Iterable[Mapping[str, Any]]) -> dict[Variant, tuple[CheckOutcome, ...]]:
    """Rows of `variant_records.VARIANT_CHECKS` as outcomes by variant."""
    return outcomes_by(rows, lambda row: Variant(row["variant"]))
