"""How far phase 1's prompt variants are: by fingerprints, as the cells."""

from dataclasses import dataclass
from typing import Literal

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.outstanding import Found, State, n_present, outstanding
from backtracking_assets.assets.stored_variants import outcomes_by_variant, stored_row, variants_of
from backtracking_assets.records import Variant
from backtracking_assets.storage.overview import overview

VariantAsset = Literal["variant_generations", "variant_detections", "variant_metrics"]

_OF_CELL: dict[str, VariantAsset] = {
    "generations": "variant_generations",
    "detections": "variant_detections",
    "metrics": "variant_metrics",
}
_AS_OF_CELL = {own: asset for asset, own in _OF_CELL.items()}


@dataclass(frozen=True)
class VariantStatus:
    """How far one prompt variant is; as `status.CellStatus`."""

    variant: Variant
    state: State
    n_completions: int
    n_planned: int
    reason: str
    next: str = ""
    first_asset: VariantAsset | None = None
    version: str = ""

    @property
    def subject(self) -> Variant:
        return self.variant


def variants_status(opened: OpenExperiment) -> list[VariantStatus]:
    """The status of every prompt variant, the sweep's own first; none without a phase 1. Writes nothing.

    Raises:
        BacktrackingError: a source or the store cannot be read.
    """
    variants = variants_of(opened.experiment)
    if not variants:
        return []
    own = {variant: opened.for_variant(variant.name) for variant in variants}
    first = own[variants[0]]
    held = overview(opened.layout, list(first.problems), first.experiment.problems.samples)
    outcomes = outcomes_by_variant(held.variant_checks)
    checked = {(Variant(row["variant"]), _AS_OF_CELL.get(row["asset"], "")) for row in held.variant_checks}
    found = []
    for variant in variants:
        asked = Found(
            own[variant],
            own[variant].baseline,
            held.variants.get(variant),
            outcomes.get(variant, ()),
            frozenset(asset for of, asset in checked if of == variant),
            held.variant_statistics.get(variant),
            held,
            "variant",
        )
        present = n_present(asked, held.n_wanted)
        work = outstanding(asked, present)
        if work is not None:
            begun = _OF_CELL[work.first]
            status = VariantStatus(
                variant, work.state, present, asked.n_planned, work.reason, work.next, first_asset=begun
            )
        else:
            assert asked.row is not None
            version = stored_row(opened, asked.row).metrics_version()
            status = VariantStatus(variant, "done", present, asked.n_planned, "", version=version)
        found.append(status)
    return found
