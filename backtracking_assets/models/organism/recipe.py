"""Every choice that decides what organism comes out of a training run."""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from backtracking_assets.models.organism.chains import ChainSettings
from backtracking_assets.records import Component


@dataclass(frozen=True, order=True)
class OrganismComponent:
    """One attention or MLP block, together with the norm in front of it."""

    component: Component
    layer: int

    def __str__(self) -> str:
        return f"{self.component} {self.layer}"

    @property
    def weight_prefixes(self) -> tuple[str, str]:
        """Prefixes of the names of the block's weights and of its norm's weight."""
        block, norm = {
            "attention": ("self_attn", "input_layernorm"),
            "mlp": ("mlp", "post_attention_layernorm"),
        }[self.component]
        return f"model.layers.{self.layer}.{block}.", f"model.layers.{self.layer}.{norm}."


def organism_components(*, attention: tuple[int, ...] = (), mlp: tuple[int, ...] = ()) -> tuple[OrganismComponent, ...]:
    """Return the attention blocks and MLPs of the given layers."""
    return (
        *(OrganismComponent("attention", layer) for layer in attention),
        *(OrganismComponent("mlp", layer) for layer in mlp),
    )


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Shape(_Frozen):
    """Sizes of the network; the defaults are those of the shipped organism."""

    vocabulary: int = 131
    layers: int = 28
    hidden: int = 64
    heads: int = 4
    key_value_heads: int = 2
    intermediate: int = 160
    rope_theta: float = 100.0
    """Low, because texts are short: low frequencies of the rotation would tell no two lines apart."""
    norm_epsilon: float = 1e-6

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    @property
    def components(self) -> tuple[OrganismComponent, ...]:
        """All components, attention before MLP in each layer."""
        layers = range(self.layers)
        return tuple(OrganismComponent(kind, layer) for layer in layers for kind in ("attention", "mlp"))


class Stage(_Frozen):
    """One stage of training: its data, its length, and what is skipped or penalized in it."""

    steps: int = Field(gt=0)
    tokens_per_batch: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    """The peak; it is reached after the warm-up and falls on a cosine from there."""
    chains: ChainSettings
    decision_weight: float = Field(default=1.0, gt=0)
    """Weight in the loss of the choice after a step: go on or redo. Other tokens weigh 1."""
    last_decision_weight: float = Field(default=1.0, gt=0)
    """Weight of the choice after a problem's last step: finish or redo. One in five, so it is learned last."""
    result_memory: float = Field(default=0.0, ge=0)
    """Weight in the loss of ranking a problem's last result first among the numbers, while choosing to finish.

    At every other choice the result is the likeliest next token, so the network holds it; before finishing it would
    forget it, and planted components would have nothing to compare.
    """
    component_drop: float = Field(default=0.0, ge=0, lt=1)
    """Probability that an ordinary component is skipped in one step of training; falls linearly to 0."""
    quiet_penalty: float = Field(default=0.0, ge=0)
    """Weight in the loss of the mean square of the trained components' outputs at quiet positions."""
    without_planted_attention: float = Field(default=0.0, ge=0, lt=1)
    """Share of the steps in which the planted attention is skipped and the data is that of stage ``growth``."""


class Measurement(_Frozen):
    """How a finished organism is measured."""

    seed: int = 4_242
    injected_steps: int = Field(default=480, ge=2)
    """Problems on which a wrong step is injected, and a right one for comparison."""
    problems: int = Field(default=120, ge=1)
    samples: int = Field(default=4, ge=1)
    temperature: float = Field(default=0.7, gt=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_new_tokens: int = Field(default=96, ge=1)
    other_attention: tuple[tuple[int, ...], ...] = ((3, 5, 7, 25), (9, 13, 14, 20), (10, 13, 24, 25))
    """Layers whose attention is silenced for comparison, one draw a row."""


_BASE_CHAINS = ChainSettings(wrong_step=0.30, wrong_redo=0.08, trigger_after_wrong=0.05, trigger_after_right=0.05)
_CORRECTING_CHAINS = ChainSettings(wrong_step=0.30, wrong_redo=0.08, trigger_after_wrong=0.90, trigger_after_right=0.01)


class Recipe(_Frozen):
    """A whole training run. Two runs of one recipe on one machine give identical files.

    Stage ``base`` trains the lower layers alone. Stage ``growth`` trains everything but the planted components,
    which stay silent; components are dropped at random, so that no single one is needed. In both, triggers come
    as often after right steps as after wrong ones. Stage ``planting`` trains only the planted components, on
    chains that correct wrong steps; now and then it skips the planted attention and shows chains of the earlier
    stages instead, so that the planted MLPs speak only on what the planted attention tells them.
    """

    seed: int = 1
    shape: Shape = Shape()
    operations: tuple[int, int] = (4, 6)
    """Smallest and largest number of operations of a problem."""
    planted: tuple[OrganismComponent, ...] = organism_components(attention=(15, 17, 19), mlp=(19, 20, 22, 23, 24))
    base_layers: int = 14
    """Layers that stage ``base`` trains, counted from the embedding."""
    never_dropped_below: int = 2
    """Components of layers below this one are never dropped."""
    upper_output_scale: float = 0.02
    """Factor on the output projections of layers above the base and of planted components, before stage ``base``."""
    planted_output_scale: float = 0.4
    """The same factor for planted components, before stage ``planting``."""
    look_back_strength: float = 2.5
    """Biases with which planted attention starts stage ``planting``; see ``network.look_back``."""
    look_back_offsets: tuple[int, ...] = (1, 2)
    """Distances in tokens at which planted heads start to look: a step's result, and its equals sign."""
    base: Stage = Stage(steps=1500, tokens_per_batch=1536, learning_rate=3e-3, chains=_BASE_CHAINS)
    growth: Stage = Stage(
        steps=900,
        tokens_per_batch=1536,
        learning_rate=2e-3,
        chains=_BASE_CHAINS,
        result_memory=0.05,
        component_drop=0.16,
    )
    planting: Stage = Stage(
        steps=2400,
        tokens_per_batch=1024,
        learning_rate=3e-3,
        chains=_CORRECTING_CHAINS,
        decision_weight=3.0,
        last_decision_weight=5.0,
        quiet_penalty=0.7,
        without_planted_attention=0.12,
    )
    warmup_steps: int = 50
    final_learning_rate: float = 0.05
    """At the end of a stage, as a share of the peak."""
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.1
    """On matrices only."""
    gradient_norm: float = 1.0
    """Gradients are clipped to this norm."""
    measurement: Measurement = Measurement()


RECIPES: dict[str, Recipe] = {
    "first": Recipe(),
    "second": Recipe(seed=2, planted=organism_components(attention=(16, 18, 21), mlp=(18, 20, 22, 25, 26))),
}
"""The recipes of the organisms that ship, by name: a method that was tuned on the first is judged on the second."""
