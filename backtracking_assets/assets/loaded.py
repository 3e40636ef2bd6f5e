"""Models and tokenizers in memory, loaded once a process."""

from typing import TYPE_CHECKING

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.conditions import Intervention
from backtracking_assets.execution.devices import torch_device
from backtracking_assets.storage.means import read_means

if TYPE_CHECKING:  # torch is imported only where a model or a tokenizer is needed
    from backtracking_assets.models.interventions import Means
    from backtracking_assets.models.loading import LoadedModel, Prompt

_models: dict[tuple[str, str, str, int], "LoadedModel"] = {}
_prompts: dict[tuple[str, str, str], dict[str, "Prompt"]] = {}


def import_engine() -> None:
    """Import what loads a model and generates with it; seconds, once a process."""
    from backtracking_assets.models import detokenize, generation, loading  # noqa: F401


def loaded_model(opened: OpenExperiment, device: str) -> "LoadedModel":
    """The experiment's model on a device.

    Raises:
        CheckpointError: see `models.loading.load_model`.
    """
    from backtracking_assets.models.loading import load_model

    checkpoint, experiment = opened.checkpoint, opened.experiment
    digests = checkpoint.weights_digest + checkpoint.tokenizer_digest
    device = torch_device(device)
    key = (digests, experiment.model.dtype, device, experiment.generation.threads)
    if key not in _models:
        _models.clear()  # two models might not fit beside each other on a device
        _models[key] = load_model(experiment, checkpoint, device)
    return _models[key]


def forget_models() -> None:
    """Drop the models in memory: they may be mapped to files that are no longer those that they are known by."""
    _models.clear()


def means_for(opened: OpenExperiment, intervention: Intervention | None) -> "Means | None":
    """The means that an intervention scales towards; None where it scales towards none.

    Raises:
        DamagedFileError: they are not in the store any more, or damaged.
    """
    if intervention is None or intervention.means_digest is None:
        return None
    import torch

    vectors = read_means(opened.layout, intervention.means_digest)
    return {target: torch.from_numpy(vector.copy()) for target, vector in vectors.items()}


def prompts(opened: OpenExperiment) -> dict[str, "Prompt"]:
    """The prompts of the experiment's problems, by problem id.

    Raises:
        CheckpointError: the tokenizer cannot be used as the experiment asks.
    """
    from backtracking_assets.models.loading import load_tokenizer, make_prompts

    key = (opened.checkpoint.tokenizer_digest, opened.sampling_digest, opened.problem_set_digest)
    if key not in _prompts:
        tokenizer = load_tokenizer(opened.checkpoint.folder, opened.experiment.model.round_trip)
        _prompts.clear()
        _prompts[key] = make_prompts(tokenizer, opened.experiment, opened.problems.values())
    return _prompts[key]
