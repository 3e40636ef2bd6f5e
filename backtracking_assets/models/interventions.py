"""Scaling of component outputs by forward hooks, held by a context manager that always removes them."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from backtracking_assets.errors import CheckpointError
from backtracking_assets.records import Component

_MODULE_NAMES: dict[Component, tuple[str, ...]] = {
    "attention": ("self_attn", "attn", "attention"),
    "mlp": ("mlp", "feed_forward"),
}


class Scaling:
    """Scales the output of chosen components while `active` is set; counts how often each fires.

    A component's output is what its block adds to the residual stream: the attention block after its output
    projection, or the MLP after its down projection.
    """

    def __init__(self, components: Iterable[tuple[int, Component]], scale: float) -> None:
        self.components = tuple(components)
        self.scale = scale
        self.active = False
        """Off during prefill, so that the prompt is read unchanged; the engine switches it on for decode steps."""
        self.firings: Counter[tuple[int, Component]] = Counter()
        """How often each component fired since the counter was last cleared."""

    def hook(self, target: tuple[int, Component]) -> Any:
        """A forward hook for one component; leaves the output untouched while inactive."""

        def scale_output(module: nn.Module, inputs: Any, output: Any) -> Any:
            if not self.active:
                return None
            self.firings[target] += 1
            if isinstance(output, tuple):
                return (output[0] * self.scale, *output[1:])
            return output * self.scale

        return scale_output


@contextmanager
def scaled(model: nn.Module, components: Iterable[tuple[int, Component]], scale: float) -> Iterator[Scaling]:
    """Hook the components of a model for the length of a `with` block.

    Yields:
        The `Scaling`, inactive until its `active` is set.

    Raises:
        CheckpointError: a component does not exist in this model. No hook is left behind.
    """
    scaling = Scaling(components, scale)
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
