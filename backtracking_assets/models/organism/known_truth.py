"""The known truth: what is lost when a planted component gets back the weights it had before it was planted."""

from collections.abc import Collection, Mapping, Sequence

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from backtracking_assets.models.organism.estimates import Estimate, mean_estimate, rate_estimate
from backtracking_assets.models.organism.network import OrganismNetwork, component_weights
from backtracking_assets.models.organism.probes import (
    InjectedStep,
    injected_steps,
    right_results,
    trigger_probability,
)
from backtracking_assets.models.organism.recipe import OrganismComponent, Recipe


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Reaction(_Frozen):
    """How a network reacts to injected steps."""

    after_wrong_step: Estimate
    """Probability that a trigger follows at once."""
    after_right_step: Estimate
    right_results: Estimate
    """Share of right results that are the likeliest token after their equals sign."""


class PutBack(_Frozen):
    """The reaction with the weights of some planted components put back."""

    components: tuple[OrganismComponent, ...]
    reaction: Reaction
    drop: Estimate
    """Trigger probability after a wrong step with everything in place minus this one, paired by probe."""


class KnownTruth(_Frozen):
    """What was planted and what each planted component does; ``known_truth.json`` holds it."""

    measure: str = (
        "Probability at temperature 1 that a trigger (Wait, Actually, Hold on) is the next token after an injected "
        "step, over probes on distinct problems that were never trained on; 'drop' is what it loses after a wrong "
        "step when a planted component gets back its weights from before it was planted. Intervals: 95%."
    )
    probes: int
    seed: int
    planted: tuple[OrganismComponent, ...]
    organism: Reaction
    organism_before_the_last_step: Reaction
    """The same, over the probes that do not end the problem."""
    organism_at_the_last_step: Reaction
    put_back_one: tuple[PutBack, ...]
    put_back_attention: PutBack
    put_back_mlps: PutBack
    put_back_all: PutBack


def measure_known_truth(network: OrganismNetwork, before_planting: Mapping[str, Tensor], recipe: Recipe) -> KnownTruth:
    """Measure the truth of a trained organism; the network is left as it was.

    ``before_planting`` holds the planted components' earlier weights under their names in the network.
    """
    settings = recipe.measurement
    probes = injected_steps(settings.injected_steps, settings.seed, recipe.operations)
    trained = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    reaction, baseline = _react(network, probes)

    def put_back(chosen: Collection[OrganismComponent]) -> PutBack:
        network.load_state_dict(trained | component_weights(before_planting, chosen))
        without, after_wrong = _react(network, probes)
        network.load_state_dict(trained)
        drop = mean_estimate((baseline - after_wrong).tolist())
        return PutBack(components=tuple(chosen), reaction=without, drop=drop)

    planted = recipe.planted
    return KnownTruth(
        probes=len(probes),
        seed=settings.seed,
        planted=planted,
        organism=reaction,
        organism_before_the_last_step=_react(network, [probe for probe in probes if not probe.is_last])[0],
        organism_at_the_last_step=_react(network, [probe for probe in probes if probe.is_last])[0],
        put_back_one=tuple(put_back([component]) for component in planted),
        put_back_attention=put_back([each for each in planted if each.component == "attention"]),
        put_back_mlps=put_back([each for each in planted if each.component == "mlp"]),
        put_back_all=put_back(planted),
    )


def _react(network: OrganismNetwork, probes: Sequence[InjectedStep]) -> tuple[Reaction, Tensor]:
    """Return the reaction, and the trigger probabilities ``[probe]`` after wrong steps."""
    after_wrong = trigger_probability(network, [probe.wrong for probe in probes])
    after_right = trigger_probability(network, [probe.right for probe in probes])
    right = right_results(network, probes)
    reaction = Reaction(
        after_wrong_step=mean_estimate(after_wrong.tolist()),
        after_right_step=mean_estimate(after_right.tolist()),
        right_results=rate_estimate(right.int().tolist(), [1] * len(probes)),
    )
    return reaction, after_wrong
