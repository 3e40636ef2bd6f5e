"""Scaling of component outputs by forward hooks, held by a context manager that always removes them; and of odds.

Outputs are scaled towards zero or towards their means: s * x + (1 - s) * mean. The odds of chosen tokens are multiplied
by the scale: its logarithm is added to their logits.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from backtracking_assets.conditions import Intervention
from backtracking_assets.errors import BacktrackingError, CheckpointError
from backtracking_assets.records import Component

Target = tuple[int, Component]
"""Layer and component."""

_MODULE_NAMES: dict[Component, tuple[str, ...]] = {
    "attention": ("self_attn", "attn", "attention"),
    "mlp": ("mlp", "feed_forward"),
}


Means = Mapping[tuple[int, Component], torch.Tensor]
"""The mean output of each component, `[hidden]`."""


class Scaling:
    """Scales the output of chosen components while `active` is set; counts how often each fires.

    A component's output is what its block adds to the residual stream: the attention block after its output
    projection, or the MLP after its down projection.
    """

    def __init__(
        self,
        components: Iterable[tuple[int, Component]],
        scale: float,
        *,
        means: Means | None = None,
        trigger_ids: Collection[int] | None = None,
    ) -> None:
        self.components = tuple(components)
        self.scale = scale
        self.active = False
        """Off during prefill, so that the prompt is read unchanged; the engine switches it on for decode steps."""
        self.firings: Counter[tuple[int, Component]] = Counter()
        """How often each component fired since the counter was last cleared."""
        self._offsets = {} if means is None else {target: (1 - scale) * means[target] for target in self.components}
        self._trigger_ids = None if trigger_ids is None else torch.tensor(sorted(trigger_ids), dtype=torch.int64)

    @property
    def n_fired(self) -> int:
        """What acted in the last decode step: the components that fired, or the move of the logits."""
        return self.firings.total() + (self._trigger_ids is not None)

    def hook(self, target: tuple[int, Component]) -> Any:
        """A forward hook for one component; leaves the output untouched while inactive."""

        def scale_output(module: nn.Module, inputs: Any, output: Any) -> Any:
            if not self.active:
                return None
            self.firings[target] += 1
            if isinstance(output, tuple):
                return (self._scaled(target, output[0]), *output[1:])
            return self._scaled(target, output)

        return scale_output

    def _scaled(self, target: tuple[int, Component], output: torch.Tensor) -> torch.Tensor:
        if target not in self._offsets:
            return output * self.scale
        offset = self._offsets[target]
        if offset.device != output.device or offset.dtype != output.dtype:
            self._offsets[target] = offset = offset.to(output)
        return output * self.scale + offset

    def on_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits `[rows, vocab]` with the odds of the trigger tokens scaled; the same ones where there are none.

        At scale 0 such a token gets the lowest finite number, whose probability is 0: infinity would look like a fault
        of the model. What is not finite stays so.
        """
        if self._trigger_ids is None:
            return logits
        ids = self._trigger_ids = self._trigger_ids.to(logits.device)
        own = logits[:, ids]
        if self.scale == 0:
            moved = own.masked_fill(own.isfinite(), torch.finfo(own.dtype).min)
        else:
            moved = own + math.log(self.scale)
        return logits.index_copy(1, ids, moved)


@contextmanager
def applied(model: nn.Module, intervention: Intervention | None, means: Means | None) -> Iterator[Scaling | None]:
    """Have an intervention act on a model for the length of a `with` block; None is none.

    Args:
        means: those that the intervention's digest names; needed where it scales towards them.

    Yields:
        The `Scaling`, inactive until its `active` is set; None without an intervention.

    Raises:
        CheckpointError: see `scaled`.
        BacktrackingError: the means are missing.
    """
    if intervention is None:
        yield None
        return
    towards: Means | None = None
    if intervention.means_digest is not None:
        if means is None or any(target not in means for target in intervention.components):
            raise BacktrackingError("A component is to be scaled towards its mean, and its mean was not given.")
        towards = means
    hooks = scaled(
        model, intervention.components, intervention.scale, means=towards, trigger_ids=intervention.trigger_ids
    )
    with hooks as scaling:
        yield scaling


@contextmanager
def scaled(
    model: nn.Module,
    components: Iterable[tuple[int, Component]],
    scale: float,
    *,
    means: Means | None = None,
    trigger_ids: Collection[int] | None = None,
) -> Iterator[Scaling]:
    """Hook the components of a model for the length of a `with` block.

    Args:
        means: towards which is scaled; without them, towards zero.
        trigger_ids: tokens whose odds are scaled.

    Yields:
        The `Scaling`, inactive until its `active` is set.

    Raises:
        CheckpointError: a component does not exist in this model. No hook is left behind.
    """
    scaling = Scaling(components, scale, means=means, trigger_ids=trigger_ids)
    handles: list[RemovableHandle] = []
    try:
        # All targets are resolved before the first hook is set.
        targets = [(target, component_module(model, *target)) for target in scaling.components]
        for target, module in targets:
            handles.append(module.register_forward_hook(scaling.hook(target)))
        yield scaling
    finally:
        for handle in handles:
            handle.remove()


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder layers of a causal language model, first to last.

    Raises:
        CheckpointError: the model has no list of decoder layers under a known name.
    """
    base = getattr(model, getattr(model, "base_model_prefix", ""), model)
    for name in ("layers", "h", "blocks"):
        layers = getattr(base, name, None)
        if isinstance(layers, nn.ModuleList):
            return layers
    raise CheckpointError(
        f"{type(model).__name__} has no list of decoder layers under a known name; "
        "use a Qwen2- or Llama-like checkpoint."
    )


def component_module(model: nn.Module, layer: int, component: Component) -> nn.Module:
    """The module of one component.

    Raises:
        CheckpointError: the layer or the component does not exist.
    """
    layers = decoder_layers(model)
    if not 0 <= layer < len(layers):
        raise CheckpointError(
            f"{component} layer {layer} does not exist: {type(model).__name__} has layers 0 to {len(layers) - 1}."
        )
    for name in _MODULE_NAMES[component]:
        module = getattr(layers[layer], name, None)
        if isinstance(module, nn.Module):
            return module
    raise CheckpointError(f"Layer {layer} of {type(model).__name__} has no {component} block under a known name.")
