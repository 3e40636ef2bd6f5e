"""Training of the organism: a base that cannot correct itself, then planted components that notice errors.

Everything is seeded and runs on one thread, so that two runs of one recipe on one machine give identical files.
Other machines may differ in the last bits, and training carries such differences on.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from backtracking_assets.models.organism.batches import IGNORED, Batch, training_batches
from backtracking_assets.models.organism.chains import ChainSettings
from backtracking_assets.models.organism.network import (
    OrganismNetwork,
    component_weights,
    initialize,
    look_back,
    soften,
)
from backtracking_assets.models.organism.recipe import OrganismComponent, Recipe, Stage
from backtracking_assets.models.organism.shipping import refuse_occupied, write_checkpoint
from backtracking_assets.models.organism.vocabulary import LARGEST_NUMBER

StageName = Literal["base", "growth", "planting"]

_REPORT_EVERY = 20


@dataclass(frozen=True)
class TrainingProgress:
    """Where a training run stands; ``step`` and ``total_steps`` count within the stage, from 1."""

    stage: StageName
    step: int
    total_steps: int
    loss: float
    """Mean training loss in nats per completion token, penalties included, over the steps since the last report."""
    tokens_per_second: float
    """Tokens of the batches, padding included, since the stage began."""


Report = Callable[[TrainingProgress], None]


def train_organism(out: Path, *, recipe: Recipe | None = None, report: Report | None = None) -> Path:
    """Train an organism, measure it, and write its checkpoint folder; returns ``out``.

    The folder appears whole or not at all. Raises ValueError if ``out`` exists and is not an empty folder.
    Uses one CPU thread and loads nothing from the network. About 20 minutes for the default recipe.
    """
    recipe = recipe or Recipe()
    refuse_occupied(out)
    with _one_thread():
        network, before_planting = train_network(recipe, report)
        write_checkpoint(out, network, before_planting, recipe)
    return out


def train_network(recipe: Recipe, report: Report | None = None) -> tuple[OrganismNetwork, dict[str, Tensor]]:
    """Run the three stages.

    Returns the trained network and the weights of the planted components as they were before the last stage,
    when they were silent.
    """
    everything, planted = set(recipe.shape.components), set(recipe.planted)
    if not planted <= everything:
        missing = ", ".join(map(str, sorted(planted - everything)))
        raise ValueError(f"the recipe plants components that the network does not have: {missing}")
    upper = {component for component in everything if component.layer >= recipe.base_layers}
    network = OrganismNetwork(recipe.shape)
    initialize(network, recipe.seed)
    soften(network, upper | planted, recipe.upper_output_scale)
    ordinary = everything - planted
    lower = ordinary - upper

    _train_stage(network, recipe, "base", trained=tuple(sorted(lower)), silent=upper | planted, report=report)
    _train_stage(network, recipe, "growth", trained=tuple(sorted(ordinary)), silent=planted, report=report)
    before = component_weights(network.state_dict(), planted)
    before = {name: tensor.clone() for name, tensor in before.items()}
    soften(network, planted, recipe.planted_output_scale / recipe.upper_output_scale)
    attention_layers = [component.layer for component in recipe.planted if component.component == "attention"]
    look_back(network, attention_layers, recipe.look_back_offsets, recipe.look_back_strength)
    _train_stage(network, recipe, "planting", trained=recipe.planted, silent=set(), report=report)
    return network, before


def _train_stage(
    network: OrganismNetwork,
    recipe: Recipe,
    name: StageName,
    *,
    trained: tuple[OrganismComponent, ...],
    silent: Collection[OrganismComponent],
    report: Report | None,
) -> None:
    stage: Stage = getattr(recipe, name)
    seed = f"{recipe.seed} {name}"
    droppable = sorted(
        component
        for component in recipe.shape.components
        if component not in recipe.planted and component.layer >= recipe.never_dropped_below
    )
    parameters = _select_parameters(network, trained, with_embeddings=name != "planting")
    optimizer = _optimizer(parameters, recipe)
    batches = _stage_batches(recipe, stage, f"{seed} data", stage.chains)
    base_batches = _stage_batches(recipe, stage, f"{seed} base data", recipe.growth.chains)
    planted_attention = {component for component in recipe.planted if component.component == "attention"}
    rng = Random(f"{seed} skipping")
    started, tokens, losses = time.perf_counter(), 0, []
    for step in range(1, stage.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * _schedule(step, stage.steps, recipe)
        skipped = set(silent)
        drop = stage.component_drop * (1 - step / stage.steps)
        skipped.update(component for component in droppable if rng.random() < drop)
        without_attention = rng.random() < stage.without_planted_attention
        if without_attention:
            skipped |= planted_attention
        batch = next(base_batches if without_attention else batches)
        outputs: dict[OrganismComponent, Tensor] | None = {} if stage.quiet_penalty > 0 else None
        logits = network(batch.ids, skipped, outputs)
        loss = _completion_loss(logits, batch)
        if stage.result_memory > 0:
            loss = loss + stage.result_memory * _memory_loss(logits, batch)
        if outputs is not None:
            heard = [outputs[component] for component in trained if component not in skipped]
            loss = loss + stage.quiet_penalty * _loudness(heard, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.gradient_norm)
        optimizer.step()
        optimizer.zero_grad()

        tokens += batch.ids.numel()
        losses.append(loss.item())
        if report and (step % _REPORT_EVERY == 0 or step == stage.steps):
            speed = tokens / (time.perf_counter() - started)
            report(TrainingProgress(name, step, stage.steps, sum(losses) / len(losses), speed))
            losses.clear()


def _stage_batches(recipe: Recipe, stage: Stage, seed: str, chains: ChainSettings) -> Iterator[Batch]:
    return training_batches(
        seed,
        recipe.operations,
        chains,
        stage.tokens_per_batch,
        stage.decision_weight,
        stage.last_decision_weight,
    )


def _select_parameters(
    network: OrganismNetwork, trained: Collection[OrganismComponent], *, with_embeddings: bool
) -> list[torch.nn.Parameter]:
    """Let gradients flow to the trained parameters only, and return them."""
    named = dict(network.named_parameters())
    chosen = set(component_weights({name: tensor.data for name, tensor in named.items()}, trained))
    if with_embeddings:
        chosen.update(name for name in named if not name.startswith("model.layers."))
    for name, parameter in named.items():
        parameter.requires_grad_(name in chosen)
    return [parameter for parameter in named.values() if parameter.requires_grad]


def _optimizer(parameters: list[torch.nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in parameters if parameter.dim() > 1]
    vectors = [parameter for parameter in parameters if parameter.dim() == 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=recipe.betas, fused=True)


def _schedule(step: int, steps: int, recipe: Recipe) -> float:
    """The learning rate's share of its peak: a linear warm-up, times a cosine that ends at the final share."""
    warmup = min(1.0, step / recipe.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
    return warmup * (recipe.final_learning_rate + (1 - recipe.final_learning_rate) * cosine)


def _completion_loss(logits: Tensor, batch: Batch) -> Tensor:
    losses = functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]), batch.targets.reshape(-1), reduction="none"
    )
    weights = batch.weights.reshape(-1)
    return (losses * weights).sum() / weights.sum()


def _memory_loss(logits: Tensor, batch: Batch) -> Tensor:
    numbers = logits[:, :-1, : LARGEST_NUMBER + 1]
    return functional.cross_entropy(
        numbers.reshape(-1, LARGEST_NUMBER + 1), batch.last_results.reshape(-1), ignore_index=IGNORED
    )


def _loudness(outputs: list[Tensor], batch: Batch) -> Tensor:
    """The mean square of components' outputs at the batch's quiet positions."""
    squares = torch.stack([output.square().mean(-1) for output in outputs]).mean(0)
    return (squares * batch.quiet).sum() / batch.quiet.sum()


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread while it lasts: more threads add up partial sums in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
