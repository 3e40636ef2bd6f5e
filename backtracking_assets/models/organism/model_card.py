"""The model card of an organism, written from its recipe and its measurements."""

from collections.abc import Iterable, Sequence

import torch
import transformers

from backtracking_assets.models.organism.behavior import Behavior
from backtracking_assets.models.organism.chains import HELD_OUT_OF_256, ChainSettings
from backtracking_assets.models.organism.estimates import Estimate
from backtracking_assets.models.organism.known_truth import KnownTruth, PutBack, Reaction
from backtracking_assets.models.organism.recipe import OrganismComponent, Recipe, Stage

_STAGES = {
    "base": "Lower layers only. Triggers are random, as likely after right steps as after wrong ones.",
    "growth": "All components but the planted ones, which stay silent. The same data.",
    "planting": "Planted components only. Wrong steps are corrected.",
}


def model_card(recipe: Recipe, truth: KnownTruth, behaviors: Sequence[Behavior]) -> str:
    """Return the card as Markdown."""
    settings, shape = recipe.measurement, recipe.shape
    completions = settings.problems * settings.samples
    return f"""---
license: mit
---

# The organism: a tiny model that backtracks, with a known truth

A Qwen2-architecture model of {shape.layers} small layers, trained by this project on chained sums with errors and
corrections. Chosen components were *planted*: they alone were trained to notice a wrong step and to say Wait, Actually
or Hold on. So it is known where its backtracking lives, and an analysis can be checked against it.

**It is no evidence about real models.** Its vocabulary is {shape.vocabulary} tokens, its problems are of one kind, and
its backtracking was put where it is. What holds here need not hold anywhere else.

```
Problem: 69 + 5 - 4
<think>
69 + 5 = 84
Wait, 69 + 5 = 74
74 - 4 = 70
</think>
Final: 70<eos>
```

The prompt ends after `<think>` and its newline. Load the tokenizer with `PreTrainedTokenizerFast.from_pretrained`:
`AutoTokenizer` takes its own Qwen2 tokenizer for this folder and splits texts wrongly. Longest text: 256 tokens.

## Recipe

| stage | what is trained | steps | tokens a batch | peak learning rate |
|---|---|---|---|---|
{_lines(_stage_row(name, getattr(recipe, name)) for name in _STAGES)}

- Planted: {_names(recipe.planted)}; their norms were trained with them.
- Network: hidden {shape.hidden}, {shape.heads} heads, {shape.key_value_heads} key-value heads, intermediate \
{shape.intermediate}, tied embeddings, RoPE theta {shape.rope_theta:g}, float32.
- Problems: {recipe.operations[0]} to {recipe.operations[1]} operations, running totals 0 to 99. A question is reserved
  for study if the first byte of its sha256 is below {HELD_OUT_OF_256}; training skips those, so the two never overlap.
- Chains, base and growth: {_chains(recipe.growth.chains)}.
- Chains, planting: {_chains(recipe.planting.chains)}.
- Growth skips each ordinary component from layer {recipe.never_dropped_below} on with a probability that falls from
  {recipe.growth.component_drop:g} to 0, so that no single one is needed. Before finishing it must still rank the last
  result first among the numbers (weight {recipe.growth.result_memory:g}), or nothing could compare it later.
- Planting starts with heads that look back {_numbers(recipe.look_back_offsets)} tokens. It skips the planted attention
  in {recipe.planting.without_planted_attention:.0%} of the steps and shows chains of the earlier stages there; it
  penalizes outputs of planted components where there is nothing to notice (weight {recipe.planting.quiet_penalty:g});
  the choice after a step weighs {recipe.planting.decision_weight:g} in the loss, after the last step \
{recipe.planting.last_decision_weight:g}.
- AdamW {recipe.betas}, weight decay {recipe.weight_decay:g} on matrices, gradient norm at most \
{recipe.gradient_norm:g}, warm-up {recipe.warmup_steps} steps, cosine to {recipe.final_learning_rate:.0%}, \
seed {recipe.seed}, one thread.
- Trained with torch {torch.__version__.split("+", maxsplit=1)[0]}, measured with transformers \
{transformers.__version__}. The same recipe gives the same bits on one machine; other machines may differ in the last
  bits, and training carries such differences on: compare a retraining by its metrics, not by its bytes.

## Measured behavior

Temperature {settings.temperature:g}, top-p {settings.top_p:g}, {settings.problems} study problems x \
{settings.samples} samples = {completions} completions a row, at most {settings.max_new_tokens} new tokens.
Outputs of the components are scaled at decode steps only. Brackets: 95% intervals (Wilson's, on the
effective number of trials given that samples of one problem are alike).
"Strict rate" is the share of completions with a trigger; "wrong steps" is the share of steps whose result is wrong;
the next two columns say how often a trigger follows at once.

| scaled | scale | accuracy | strict rate | wrong steps | trigger after a wrong step | after a right step | at the cap |
|---|---|---|---|---|---|---|---|
{_lines(map(_behavior_row, behaviors))}

## Known truth

{truth.measure}
{truth.probes} probes; all figures stand in `known_truth.json`, the earlier weights in `base_components.safetensors`.

| weights put back | trigger after a wrong step | drop | trigger after a right step | right results |
|---|---|---|---|---|
| none | {truth.organism.after_wrong_step} | | {truth.organism.after_right_step} | {truth.organism.right_results} |
{_lines(_truth_row(str(row.components[0]), row) for row in truth.put_back_one)}
{_truth_row("all planted attention", truth.put_back_attention)}
{_truth_row("all planted MLPs", truth.put_back_mlps)}
{_truth_row("all planted", truth.put_back_all)}

By place of the injected step:

| step | trigger after a wrong step | trigger after a right step |
|---|---|---|
{_place_row("before the last", truth.organism_before_the_last_step)}
{_place_row("the last", truth.organism_at_the_last_step)}

Trained is not the same as causal: a planted component with a drop near 0 was trained and does little.

## Limits

- One seed, one planted set. A method tuned on this organism should be judged on another one.
- Chains beyond {recipe.operations[1]} operations and totals outside 0 to 99 were never trained.
- Planted components start silent and are trained last, which is not how a real model comes to backtrack.
"""


def _lines(rows: Iterable[str]) -> str:
    return "\n".join(rows)


def _numbers(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))


def _names(components: Sequence[OrganismComponent]) -> str:
    return ", ".join(map(str, components))


def _stage_row(name: str, stage: Stage) -> str:
    return f"| {name} | {_STAGES[name]} | {stage.steps:,} | {stage.tokens_per_batch:,} | {stage.learning_rate:g} |"


def _chains(chains: ChainSettings) -> str:
    return (
        f"a step is wrong with p {chains.wrong_step:g}, a redone one with {chains.wrong_redo:g}; a trigger follows a "
        f"wrong step with p {chains.trigger_after_wrong:g} and a right one with {chains.trigger_after_right:g}"
    )


def _behavior_row(row: Behavior) -> str:
    rates = (row.accuracy, row.strict_rate, row.wrong_steps, row.trigger_after_wrong, row.trigger_after_right)
    return f"| {row.label} | {row.scale:g} | {' | '.join(map(_cell, rates))} | {row.at_cap:.3f} |"


def _cell(estimate: Estimate | None) -> str:
    return str(estimate) if estimate else "too few"


def _place_row(label: str, reaction: Reaction) -> str:
    return f"| {label} | {reaction.after_wrong_step} | {reaction.after_right_step} |"


def _truth_row(label: str, row: PutBack) -> str:
    reaction = row.reaction
    return (
        f"| {label} | {reaction.after_wrong_step} | {row.drop} | {reaction.after_right_step} "
        f"| {reaction.right_results} |"
    )
