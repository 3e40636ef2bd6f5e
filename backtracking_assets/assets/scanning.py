"""What phase 1's scan looks at, and what the store holds of it: events of problems that the sweep does not use."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from backtracking_assets.analysis.component_selection import SELECTION_VERSION, criterion, selected_layers
from backtracking_assets.analysis.component_summaries import SCAN_VERSION
from backtracking_assets.analysis.continuation_positions import Chosen, choose_positions, observed_triggers
from backtracking_assets.analysis.statistics_settings import statistics_digest
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.stored_variants import (
    StoredVariant,
    current_variant,
    detected_variant,
    problems_outside_sweep,
)
from backtracking_assets.conditions import digest
from backtracking_assets.errors import ExperimentError, StorageError
from backtracking_assets.experiment import Experiment
from backtracking_assets.scan_plan import Scan
from backtracking_assets.storage import queries
from backtracking_assets.storage.scan_commits import ScannedFrom

SELECTION_FILE = "selected_components.json"
"""In the experiment's output folder: what layer subsets are derived from."""


@dataclass(frozen=True)
class HeldOut:
    """The baseline's completions of phase 1's problems that the sweep does not use."""

    stored: StoredVariant
    completions: pa.Table
    """Rows of `records.COMPLETIONS`."""
    detections: pa.Table
    """Rows of `records.DETECTIONS`."""
    n_problems: int

    @property
    def source(self) -> ScannedFrom:
        """What the database must still hold when results of these completions are written."""
        stored = self.stored
        assert stored.rules_digest is not None
        return ScannedFrom(
            stored.variant.name,
            stored.fingerprint,
            stored.problem_set_digest,
            stored.n_samples,
            stored.rules_digest,
        )


def settings_of(experiment: Experiment) -> Scan:
    """The section of the experiment file.

    Raises:
        ExperimentError: it has none.
    """
    if experiment.scan is None:
        raise ExperimentError(
            f"{experiment.source} has no section scan, which says at how many events components are scanned; "
            "add one, as docs/experiment-files.md describes it."
        )
    return experiment.scan


def held_out_baseline(opened: OpenExperiment) -> HeldOut:
    """The completions whose events are looked at.

    Raises:
        ExperimentError: there is no phase 1.
        StorageError: the completions are not there, are not what the experiment asks for, or fail a check that must
            hold.
    """
    name = opened.experiment.prompting.variant
    stored = current_variant(opened, name)
    if stored is None:
        detected_variant(opened, name)  # raises what is missing
        raise StorageError(
            f"Prompt variant {name} fails a check that must hold, so its events are not looked at; see its checks."
        )
    held_out = problems_outside_sweep(opened)
    of_held_out = pc.field("problem_id").isin(list(held_out))
    return HeldOut(stored, stored.completions.filter(of_held_out), stored.detections.filter(of_held_out), len(held_out))


def chosen_positions(held: HeldOut, settings: Scan) -> Chosen:
    """The positions that are looked at.

    Raises:
        BacktrackingError: there is no event to look at.
    """
    return choose_positions(held.completions, held.detections, settings, section="scan")


def scan_triggers(opened: OpenExperiment, held: HeldOut) -> dict[int, str]:
    """The tokens that begin a strict trigger and their text, by id, sorted."""
    from backtracking_assets.models.loading import load_tokenizer
    from backtracking_assets.models.trigger_tokens import trigger_tokens

    observed = observed_triggers(held.completions, opened.experiment.detection)
    tokenizer = load_tokenizer(opened.checkpoint.folder, opened.experiment.model.round_trip)
    return trigger_tokens(tokenizer, observed.texts, observed.first_token_ids)


def scan_digest(opened: OpenExperiment, stored: StoredVariant) -> str:
    """Digest of what the lens and the components' effects are computed from: the positions, and how they are read."""
    settings = settings_of(opened.experiment)
    return digest(
        {
            "version": SCAN_VERSION,
            "baseline": stored.version(),
            "not_held_out": opened.problem_set_digest,
            "events": settings.events,
            "seed": settings.seed,
        }
    )


def selection_digest(opened: OpenExperiment, stored: StoredVariant) -> str:
    """Digest of what the selection is computed from."""
    settings = settings_of(opened.experiment)
    return digest(
        {
            "version": SELECTION_VERSION,
            "scan": scan_digest(opened, stored),
            "settings": settings.model_dump(mode="json"),
            "criterion": criterion(settings.select_by),
            "statistics": statistics_digest(opened.experiment.statistics),
        }
    )


def stored_lens(opened: OpenExperiment) -> pa.Table | None:
    """Rows of `LENS_SUMMARIES`; None where they are missing or computed from something else."""
    return _stored(opened, "lens_summaries")


def stored_scan(opened: OpenExperiment) -> pa.Table | None:
    """Rows of `COMPONENT_SUMMARIES`; None where they are missing or computed from something else."""
    return _stored(opened, "component_summaries")


def stored_selection(opened: OpenExperiment) -> pa.Table | None:
    """Rows of `SELECTED_COMPONENTS`; None where they, or their file, are missing or computed from something else."""
    stored = _baseline(opened)
    if stored is None:
        return None
    table = queries.scan_table(opened.layout, "selected_components")
    if table["selection_digest"].unique().to_pylist() != [selection_digest(opened, stored)]:
        return None
    return table if _text_of(selection_file(opened)) == selection_document(table) else None


def logit_lens_is_done(opened: OpenExperiment) -> bool:
    """Whether there is nothing to do for the logit lens: it is current, or not asked for."""
    return opened.experiment.scan is None or stored_lens(opened) is not None


def component_importance_is_done(opened: OpenExperiment) -> bool:
    """Whether there is nothing to do for the component scan: it is current, or not asked for."""
    return opened.experiment.scan is None or stored_scan(opened) is not None


def selected_components_is_done(opened: OpenExperiment) -> bool:
    """Whether there is nothing to do for the selection: it is current, or not asked for."""
    return opened.experiment.scan is None or stored_selection(opened) is not None


def data_versions(opened: OpenExperiment) -> dict[str, str]:
    """The data version of each asset of the scan that is stored and current, upstream first."""
    stored = _baseline(opened)
    if stored is None:
        return {}
    held = {
        "logit_lens": (stored_lens, scan_digest),
        "component_importance": (stored_scan, scan_digest),
        "selected_components": (stored_selection, selection_digest),
    }
    return {asset: version(opened, stored) for asset, (table, version) in held.items() if table(opened) is not None}


def selection_file(opened: OpenExperiment) -> Path:
    return opened.layout.root / SELECTION_FILE


def selection_document(selection: pa.Table) -> str:
    """The selected layers of each kind, best first, as JSON, from rows of `SELECTED_COMPONENTS`.

    Its digest stands for the layers and for what they were selected by.
    """
    layers = selected_layers(selection)
    by, words = (selection[name][0].as_py() for name in ("selection_digest", "criterion"))
    content = {"digest": digest({"selection": by, **layers}), "criterion": words, **layers}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _stored(opened: OpenExperiment, name: queries.ScanTable) -> pa.Table | None:
    stored = _baseline(opened)
    if stored is None:
        return None
    table = queries.scan_table(opened.layout, name)
    wanted = {(scan_digest(opened, stored), statistics_digest(opened.experiment.statistics))}
    return table if set(_pairs(table, ("scan_digest", "statistics_digest"))) == wanted else None


def _baseline(opened: OpenExperiment) -> StoredVariant | None:
    if opened.experiment.scan is None:
        return None
    return current_variant(opened, opened.experiment.prompting.variant)


def _pairs(table: pa.Table, names: Iterable[str]) -> Iterable[tuple]:
    return zip(*(table[name].to_pylist() for name in names), strict=True)


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
