"""Layer subsets: what is scaled together, listed or derived, and the controls that they are compared with."""

import random
import re
from collections import Counter
from collections.abc import Mapping, Set
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StrictBool, StrictInt, Tag, field_validator, model_validator

from backtracking_assets.records import Component
from backtracking_assets.section import Name, Section, Seed

_MOST_REDRAWS = 1000

TRIGGER_LOGITS = "trigger_logits"
"""Name of the subset that scales no component but the odds of the tokens that begin a strict trigger."""

_IMPORTED = re.compile(r"imported/[A-Za-z0-9_][A-Za-z0-9_.+-]*")

SELECTED = "selected_components"
"""The asset that ranks components; a derived subset takes the first of its ranking."""

Towards = Literal["zero", "mean"]
"""Where an output goes as its scale falls to 0: to zero, or to its mean over the baseline's decode positions."""


class LayerSubset(Section):
    """The components that are scaled together."""

    attention: tuple[StrictInt, ...] = ()
    mlp: tuple[StrictInt, ...] = ()
    towards: Towards = "zero"

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

    @property
    def acts_on(self) -> tuple[Any, ...]:
        """The components and towards what they are scaled: equal for two subsets that do the same."""
        return (self.components(), self.towards)


class DerivedSubset(Section):
    """The first components of a ranking that is computed, by this study or by one that was imported."""

    source: Annotated[str, Field(alias="from", max_length=200)]
    """`selected_components`, or `imported/` and the id of an imported run."""
    kinds: Annotated[tuple[Component, ...], Field(min_length=1)] = ("attention", "mlp")
    top: Annotated[int, Field(strict=True, ge=1, le=10_000)]
    """How many of each kind."""
    towards: Towards = "zero"

    @field_validator("source")
    @classmethod
    def _known_source(cls, source: str) -> str:
        if source != SELECTED and not _IMPORTED.fullmatch(source):
            raise ValueError(f"give {SELECTED}, or imported/ and the id of an imported run")
        return source

    @field_validator("kinds")
    @classmethod
    def _distinct(cls, kinds: tuple[Component, ...]) -> tuple[Component, ...]:
        if len(set(kinds)) != len(kinds):
            raise ValueError("a kind is listed twice")
        return kinds


class TriggerLogits(Section):
    """No component: the scale multiplies the odds of the tokens that begin a strict trigger."""


def _form(value: Any) -> str:
    derived = "from" in value if isinstance(value, dict) else isinstance(value, DerivedSubset)
    return "(derived)" if derived else "(listed)"


FileSubset = Annotated[
    Annotated[LayerSubset, Tag("(listed)")] | Annotated[DerivedSubset, Tag("(derived)")], Discriminator(_form)
]
"""A subset as it stands in the experiment file."""

FORMS: Mapping[str, type[Section]] = {"(listed)": LayerSubset, "(derived)": DerivedSubset}
"""What pydantic calls the two forms in the places of its errors; no key of a file can have such a name."""

Subset = LayerSubset | DerivedSubset | TriggerLogits


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
    trigger_logits: StrictBool = False
    """Whether there is the subset `trigger_logits`."""


def random_draw(
    control: RandomControl,
    draw: int,
    *,
    targeted: Mapping[str, LayerSubset],
    taken: Set[tuple[Any, ...]],
    n_layers: int,
) -> LayerSubset:
    """A subset matched in number and kind to the control's target and equal to none that is taken.

    It is scaled towards what its target is scaled towards. A generator of its own for each draw: adding draws never
    changes the earlier ones.

    Args:
        taken: `LayerSubset.acts_on` of the subsets that it must differ from.

    Raises:
        ValueError: too few components lie outside the excluded subsets.
    """
    target = targeted[control.of]
    excluded = {pair for name in (control.of, *control.outside) for pair in targeted[name].components()}
    source = random.Random(f"{control.seed}|{control.of}|{draw}")
    pools: dict[Component, tuple[list[int], int]] = {}
    kinds: tuple[tuple[Component, int], ...] = (("attention", len(target.attention)), ("mlp", len(target.mlp)))
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
        subset = LayerSubset(attention=drawn["attention"], mlp=drawn["mlp"], towards=target.towards)
        if subset.acts_on not in taken:
            return subset
    raise ValueError(
        f"controls.random of {control.of}: no {control.draws} different draws lie outside the excluded subsets; "
        "lower draws"
    )
