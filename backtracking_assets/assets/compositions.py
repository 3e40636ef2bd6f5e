"""What each layer subset acts on: as listed, as ranked by an asset, towards which means, or on which tokens' odds."""

from typing import TYPE_CHECKING

from backtracking_assets.conditions import Composition, digest
from backtracking_assets.errors import ExperimentError, WaitingError
from backtracking_assets.layer_subsets import SELECTED, DerivedSubset, TriggerLogits
from backtracking_assets.records import Component
from backtracking_assets.storage.means import MEANS_VERSION, current_means
from backtracking_assets.storage.parquet import DamagedFileError
from backtracking_assets.storage.selections import Selection, read_selection

if TYPE_CHECKING:
    from backtracking_assets.assets.open_experiment import OpenExperiment

MEANS = "component_means"
"""The asset that computes the means."""

_trigger_tokens: dict[tuple[str, tuple[str, ...]], dict[int, str]] = {}


def compose(opened: "OpenExperiment", layer_subset: str) -> Composition:
    """What a subset acts on.

    Raises:
        WaitingError: the ranking or the means are not there yet.
        ExperimentError: the tokenizer writes no trigger.
    """
    subset = opened.subsets[layer_subset]
    if isinstance(subset, TriggerLogits):
        return Composition(trigger_tokens=trigger_tokens(opened))
    derived = isinstance(subset, DerivedSubset)
    components = _selected(opened, layer_subset, subset) if derived else subset.components()
    return Composition(components, _means(opened, layer_subset) if subset.towards == "mean" else None)


def means_digest_of(opened: "OpenExperiment") -> str | None:
    """Digest of the means as the experiment asks for them now; None where they are not there, or damaged."""
    return current_means(opened.layout, means_made_from(opened))


def means_made_from(opened: "OpenExperiment") -> str:
    """Digest of what the means are computed from."""
    return digest(
        {
            "version": MEANS_VERSION,
            "baseline": opened.baseline.fingerprint,
            "problems": opened.held_out.problem_set_digest,
            "samples": opened.experiment.means.samples,
        }
    )


def trigger_tokens(opened: "OpenExperiment") -> dict[int, str]:
    """Id and text of the tokens that begin a strict trigger, in the spellings that `trigger_spellings` names.

    Raises:
        ExperimentError: there are none.
    """
    from backtracking_assets.models.trigger_spellings import spelled_trigger_tokens

    triggers = opened.experiment.detection.strict
    key = (opened.checkpoint.tokenizer_digest, triggers)
    if key not in _trigger_tokens:
        _trigger_tokens[key] = spelled_trigger_tokens(opened.checkpoint.folder, triggers)
    if not _trigger_tokens[key]:
        raise ExperimentError(
            f"{opened.experiment.source} sets controls.trigger_logits, and the tokenizer of the checkpoint writes none "
            f"of detection.strict: {', '.join(triggers)}; set it to false, or list triggers that the model can write."
        )
    return _trigger_tokens[key]


def _means(opened: "OpenExperiment", layer_subset: str) -> str:
    found = means_digest_of(opened)
    if found is None:
        remedy = f"`backtracking sweep` computes them before its cells, and so does materializing {MEANS} in the UI"
        raise WaitingError(layer_subset, MEANS, "the means of the outputs are not computed", remedy)
    return found


def _selected(opened: "OpenExperiment", layer_subset: str, subset: DerivedSubset) -> tuple[tuple[int, Component], ...]:
    remedy = (
        "`backtracking sweep --job phase1` computes it" if subset.source == SELECTED else "`backtracking import-run` it"
    )
    try:
        selection = read_selection(opened.layout, subset.source)
    except DamagedFileError as damage:
        raise WaitingError(layer_subset, subset.source, f"{damage.path} {damage.reason}", remedy) from damage
    if selection is None:
        raise WaitingError(layer_subset, subset.source, "no components are selected", remedy)
    return tuple(
        sorted(
            (layer, kind) for kind in subset.kinds for layer in _first(opened, layer_subset, subset, selection, kind)
        )
    )


def _first(
    opened: "OpenExperiment", layer_subset: str, subset: DerivedSubset, selection: Selection, kind: Component
) -> tuple[int, ...]:
    listed = selection.layers(kind)
    n_layers = opened.experiment.model.n_layers
    beyond = [layer for layer in listed if layer >= n_layers]
    if len(listed) >= subset.top and not beyond:
        return listed[: subset.top]
    reason = f"it ranks {len(listed)} {kind} layers and top asks for {subset.top}"
    if beyond:
        reason = f"it names {kind} layer {beyond[0]}, and the model has layers 0 to {n_layers - 1}"
    raise WaitingError(layer_subset, subset.source, reason, f"change layer_subsets.{layer_subset} or select anew")
