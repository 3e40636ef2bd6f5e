"""The identity probe: hooks at scale 1.0 must change nothing, token by token."""

from dataclasses import dataclass

from backtracking_assets.assets.loaded import loaded_model, means_for, prompts
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.execution.devices import device_locks_dir, devices_of, leased_device
from backtracking_assets.records import Cell

_PROBED_COMPLETIONS = 8
_PROBED_TOKENS = 48


@dataclass(frozen=True)
class Identity:
    """What the probe saw."""

    n_completions: int
    n_equal: int
    fired: bool
    """Whether every component fired, or the logits were moved, at every decode step of every completion."""

    @property
    def holds(self) -> bool:
        return self.fired and self.n_equal == self.n_completions


def probe_identity(opened: OpenExperiment, cell: Cell) -> Identity:
    """Generate a few short completions in two batches of equal shape, without hooks and with hooks at scale 1.0.

    Raises:
        BacktrackingError: no device is to be had, or the checkpoint is unfit.
    """
    from backtracking_assets.models.generation import Request, generate

    identity = opened.composition(cell.layer_subset).at(1.0)
    sampling = opened.experiment.sampling
    sampling = sampling.model_copy(update={"max_new_tokens": min(sampling.max_new_tokens, _PROBED_TOKENS)})
    prompt_of = prompts(opened)
    requests = [
        Request(problem_id, sample_id, prompt_of[problem_id].token_ids)
        for problem_id, sample_id in opened.keys()[:_PROBED_COMPLETIONS]
    ]
    with leased_device(devices_of(opened.experiment), device_locks_dir()) as device:
        loaded = loaded_model(opened, device)
        means = means_for(opened, identity)
        plain, hooked = (
            generate(
                loaded.model, requests, sampling, hooks, stop_ids=loaded.stop_ids, pad_id=loaded.pad_id, means=means
            )
            for hooks in (None, identity)
        )
    pairs = list(zip(plain.completions, hooked.completions, strict=True))
    return Identity(
        n_completions=len(pairs),
        n_equal=sum(one.token_ids == other.token_ids for one, other in pairs),
        fired=all(row.n_firings == identity.n_acting * row.n_decode_steps for row in hooked.completions),
    )
