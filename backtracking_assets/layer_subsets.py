"""Layer subsets: the components that are scaled together, and the random ones that they are compared with."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import Field, StrictInt, model_validator

from backtracking_assets.records import Component
from backtracking_assets.section import Name, Section, Seed

_MOST_REDRAWS = 1000

TRIGGER_LOGITS = "trigger_logits"
"""Name of the subset that scales no component but the odds of the tokens that begin a strict trigger."""


class LayerSubset(Section):
    """The components that are scaled together."""

    attention: tuple[StrictInt, ...] = ()
    mlp: tuple[StrictInt, ...] = ()

    @model_validator(mode="after")
    def _distinct_and_not_empty(self) -> "LayerSubset":
        if not self.attention and not self.mlp:
            raise ValueError("it names no layer; list at least one under attention or mlp")
        for kind, layers in (("attention", self.attention), ("mlp", self.mlp)):
            twice = sorted(layer for layer, n in Counter(layers).items() if n > 1)
            if twice:
                raise ValueError(f"{kind} names layer {twice[0]} twice")
        return self

    def components(self) -> tuple[tuple[int, Component], ...]:
        """Pairs (layer, component), sorted."""
        pairs: list[tuple[int, Component]] = [(layer, "attention") for layer in self.attention]
        mlps: list[tuple[int, Component]] = [(layer, "mlp") for layer in self.mlp]
        return tuple(sorted(pairs + mlps))


class RandomControl(Section):
    """Random subsets matched in number and kind to one targeted subset."""

    of: Name
    draws: Annotated[int, Field(strict=True, ge=1, le=1000)]
    seed: Seed
    outside: tuple[Name, ...] = ()
    """Subsets whose layers are never drawn, besides those of `of` itself."""

    def name(self, draw: int) -> str:
        return f"random_{draw}_of_{self.of}"


class Controls(Section):
    random: tuple[RandomControl, ...] = ()


def random_draw(
    control: RandomControl,
    draw: int,
    *,
    targeted: Mapping[str, LayerSubset],
    taken: Iterable[LayerSubset],
    n_layers: int,
) -> LayerSubset:
    """A subset matched in number and kind to the control's target and equal to none that is taken.

    A generator of its own for each draw: adding draws never changes the earlier ones.

    Raises:
        ValueError: too few components lie outside the excluded subsets.
    """
    target = targeted[control.of]
    excluded = {pair for name in (control.of, *control.outside) for pair in targeted[name].components()}
    source = random.Random(f"{control.seed}|{control.of}|{draw}")
    pools: dict[Component, tuple[list[int], int]] = {}
    kinds: tuple[tuple[Component, int], ...] = (("attention", len(target.attention)), ("mlp", len(target.mlp)))
    known = {subset.components() for subset in taken}
    for component, wanted in kinds:
        free = [layer for layer in range(n_layers) if (layer, component) not in excluded]
        if wanted > len(free):
            raise ValueError(
                f"controls.random of {control.of}: {wanted} {component} layers are wanted "
                f"and {len(free)} lie outside the excluded subsets"
            )
        pools[component] = (free, wanted)
    for _ in range(_MOST_REDRAWS):
        drawn = {kind: tuple(sorted(source.sample(free, wanted))) for kind, (free, wanted) in pools.items()}
        subset = LayerSubset(attention=drawn["attention"], mlp=drawn["mlp"])
        if subset.components() not in known:
            return subset
    raise ValueError(
        f"controls.random of {control.of}: no {control.draws} different draws lie outside the excluded subsets; "
        "lower draws"
    )
