"""The identity probe: hooks at scale 1.0 must change nothing, token by token."""

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from backtracking_assets.assets.loaded import loaded_model, means_for, prompts
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.conditions import Intervention
from backtracking_assets.execution.devices import lease_of
from backtracking_assets.records import Cell

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PROBED_COMPLETIONS = 24
_PROBED_TOKENS = 16
"""Many short ones: a decode step costs nearly the same for one row and for 24."""

_Probed = tuple[tuple[tuple[int, ...], ...], bool]
"""The tokens of each completion, and whether all hooks fired."""
_probed: "WeakKeyDictionary[PreTrainedModel, dict[object, _Probed]]" = WeakKeyDictionary()
"""By model in memory: what was asked of it, which is the same for all scales of a layer subset, and came out."""


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
    """Generate short completions in two batches of equal shape, without hooks and with the cell's at scale 1.0.

    Each batch is generated once with a model in memory, however many cells ask for it.

    Raises:
        BacktrackingError: no device is to be had, or the checkpoint is unfit.
    """
    identity = opened.composition(cell.layer_subset).at(1.0)
    with lease_of(opened.experiment) as device:
        plain, _ = _generated(opened, device, None)
        hooked, fired = _generated(opened, device, identity)
    n_equal = sum(one == other for one, other in zip(plain, hooked, strict=True))
    found = Identity(len(plain), n_equal, fired)
    if not found.holds:
        _probed.clear()  # asked again, it is made again: what broke it may be mended
    return found


def _generated(opened: OpenExperiment, device: str, hooks: Intervention | None) -> _Probed:
    from backtracking_assets.models.generation import Request, generate

    sampling = opened.experiment.sampling
    sampling = sampling.model_copy(update={"max_new_tokens": min(sampling.max_new_tokens, _PROBED_TOKENS)})
    prompt_of = prompts(opened)
    requests = tuple(
        Request(problem_id, sample_id, prompt_of[problem_id].token_ids)
        for problem_id, sample_id in opened.keys()[:_PROBED_COMPLETIONS]
    )
    loaded = loaded_model(opened, device)
    before, asked = _probed.setdefault(loaded.model, {}), (requests, sampling, hooks)
    if asked not in before:
        made = generate(
            loaded.model,
            requests,
            sampling,
            hooks,
            stop_ids=loaded.stop_ids,
            pad_id=loaded.pad_id,
            means=means_for(opened, hooks),
        )
        n_acting = 0 if hooks is None else hooks.n_acting
        fired = all(row.n_firings == n_acting * row.n_decode_steps for row in made.completions)
        before[asked] = tuple(tuple(row.token_ids) for row in made.completions), fired
    return before[asked]
