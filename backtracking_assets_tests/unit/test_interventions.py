"""Scaling towards means and scaling of trigger odds, against the same written another way; and their fingerprints."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LogitsProcessor, PreTrainedModel

from backtracking_assets.conditions import Composition, Condition, Intervention, canonical_intervention
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Sampling
from backtracking_assets.models.checkpoint import inspect
from backtracking_assets.models.continuation import Prefix, ReadingSettings, continue_prefixes
from backtracking_assets.models.generation import Batch, Request, generate
from backtracking_assets.models.interventions import Means, scaled
from backtracking_assets.models.loading import LoadedModel, load_model
from backtracking_assets.models.sampling import row_keys, uniform_noise
from backtracking_assets_tests.tiny import experiment_document, write_experiment, write_problems

GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=20, seed=0)
DRAWN = Sampling(temperature=0.7, top_p=0.9, max_new_tokens=12, seed=5)
TOWARDS = Intervention(components=((0, "mlp"), (1, "attention")), scale=0.3, means_digest="0" * 64)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> LoadedModel:
    folder = tmp_path_factory.mktemp("interventions")
    document = experiment_document(tiny_checkpoint, write_problems(folder / "problems.jsonl"))
    return load_model(write_experiment(folder / "e.yaml", document), inspect(tiny_checkpoint), "cpu")


@pytest.fixture(scope="module")
def means() -> Means:
    source = torch.Generator().manual_seed(3)
    return {(layer, kind): torch.randn(32, generator=source) for layer in (0, 1) for kind in ("attention", "mlp")}


def requests(loaded: LoadedModel, n: int = 5) -> list[Request]:
    return [Request(f"p{i}", i % 2, tuple(loaded.tokenizer.encode(f"Q: {'x' * (3 * i)} {i}\n"))) for i in range(n)]


def run(
    loaded: LoadedModel, sampling: Sampling, intervention: Intervention | None, means: Means | None = None
) -> Batch:
    how: dict[str, Any] = {"stop_ids": loaded.stop_ids, "pad_id": loaded.pad_id, "means": means}
    return generate(loaded.model, requests(loaded), sampling, intervention, **how)


def tokens(batch: Batch) -> list[list[int]]:
    return [completion.token_ids for completion in batch.completions]


@pytest.fixture(scope="module")
def triggers(loaded: LoadedModel) -> tuple[int, ...]:
    """Tokens that the baseline draws often, so that moving their odds tells."""
    drawn = [token for row in (*tokens(run(loaded, DRAWN, None)), *tokens(run(loaded, GREEDY, None))) for token in row]
    return tuple(sorted({drawn[1], drawn[5], drawn[-3], 70}))


@contextmanager
def wrapped(model: PreTrainedModel, scale: float, means: Means) -> Iterator[None]:
    """The same intervention by replaced forward methods, decode steps told by their length of 1."""
    layers: Any = model.get_decoder().layers
    attention, mlp = layers[1].self_attn, layers[0].mlp
    original_attention, original_mlp = attention.forward, mlp.forward

    def towards(output: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        return mean + scale * (output - mean) if output.shape[1] == 1 else output

    def changed_attention(*args, **kwargs):
        output, weights = original_attention(*args, **kwargs)
        return towards(output, means[1, "attention"]), weights

    attention.forward, mlp.forward = changed_attention, lambda hidden: towards(original_mlp(hidden), means[0, "mlp"])
    try:
        yield
    finally:
        attention.forward, mlp.forward = original_attention, original_mlp


class AddsToLogits(LogitsProcessor):
    """Adds a number to the logits of some tokens at every new token but the first, which prefill predicts."""

    def __init__(self, prompt_length: int, ids: tuple[int, ...], added: float) -> None:
        self.prompt_length, self.ids, self.added = prompt_length, list(ids), added

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        if input_ids.shape[1] > self.prompt_length:
            scores[:, self.ids] += self.added
        return scores


@contextmanager
def own_attention(model: PreTrainedModel) -> Iterator[Any]:
    """The model with an attention of transformers' own, which needs no mask of this project."""
    model.set_attn_implementation("sdpa")
    try:
        yield model
    finally:
        model.set_attn_implementation("backtracking_grouped")


def reference(loaded: LoadedModel, request: Request, *processors: LogitsProcessor) -> list[int]:
    """One prompt through transformers' generate."""
    with own_attention(loaded.model) as model:
        output = model.generate(
            torch.tensor([request.prompt_ids]),
            max_new_tokens=GREEDY.max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(loaded.stop_ids),
            pad_token_id=loaded.pad_id,
            logits_processor=list(processors),
        )
    return output[0, len(request.prompt_ids) :].tolist()


def test_scaling_towards_means_equals_one_written_independently(loaded, means):
    ours = tokens(run(loaded, GREEDY, TOWARDS, means))
    with wrapped(loaded.model, TOWARDS.scale, means):
        theirs = [reference(loaded, request) for request in requests(loaded)]
    assert ours == theirs
    towards_zero = Intervention(components=TOWARDS.components, scale=TOWARDS.scale)
    assert ours != tokens(run(loaded, GREEDY, towards_zero))


@pytest.mark.parametrize("scale", [0.0, 0.2, 3.0])
def test_greedy_with_moved_odds_equals_a_logits_processor_of_transformers(loaded, triggers, scale):
    ours = tokens(run(loaded, GREEDY, Intervention(components=(), scale=scale, trigger_ids=triggers)))
    added = math.log(scale) if scale else -math.inf
    wanted = requests(loaded)
    assert ours == [reference(loaded, one, AddsToLogits(len(one.prompt_ids), triggers, added)) for one in wanted]
    if scale == 0:
        assert ours != tokens(run(loaded, GREEDY, None))
        assert not any(set(row[1:]) & set(triggers) for row in ours)


@pytest.mark.parametrize("scale", [0.0, 0.25])
def test_the_nucleus_is_that_of_the_moved_logits(loaded, triggers, scale):
    """Redone in NumPy: logarithm added, then temperature, then the nucleus, then the noise."""
    batch = run(loaded, DRAWN, Intervention(components=(), scale=scale, trigger_ids=triggers))
    added = math.log(scale) if scale else -math.inf
    for row in batch.completions:
        request = row.request
        keys = row_keys(DRAWN.seed, [(request.problem_id, request.sample_id)])
        for step, token in enumerate(row.token_ids):
            prefix = torch.tensor([[*request.prompt_ids, *row.token_ids[:step]]])
            with torch.inference_mode(), own_attention(loaded.model) as model:
                logits = model(input_ids=prefix).logits[0, -1].double().numpy().copy()
            if step:
                logits[list(triggers)] += added
            scores = logits / DRAWN.temperature
            probabilities = np.exp(scores - scores.max())
            probabilities /= probabilities.sum()
            order = np.argsort(-probabilities, kind="stable")
            before = np.cumsum(probabilities[order]) - probabilities[order]
            kept = order[before < DRAWN.top_p]
            noise = -np.log(-np.log(uniform_noise(keys, step, len(logits)).numpy()[0]))
            drawn = kept[np.argmax(np.log(probabilities[kept]) + noise[kept])]
            assert drawn == token
    assert tokens(batch) != tokens(run(loaded, DRAWN, None))


def test_the_odds_of_the_next_token_are_multiplied_by_the_scale(loaded, triggers):
    prefix = tuple(loaded.tokenizer.encode("Q: 1\nno"))
    one = Prefix("p", 0, 2, prefix, onset_token_id=triggers[0], drawn_token_id=3, continuations=2)
    moved = [Intervention(components=(), scale=scale, trigger_ids=triggers) for scale in (0.25, 0.0)]
    reading = ReadingSettings(DRAWN, triggers, loaded.stop_ids, loaded.pad_id)
    plain, quarter, none = (
        outcome.next_tokens[0] for outcome in continue_prefixes(loaded.model, [one], [None, *moved], reading)
    )
    odds = plain.trigger_probability / (1 - plain.trigger_probability)
    assert quarter.trigger_probability / (1 - quarter.trigger_probability) == pytest.approx(odds / 4, rel=1e-5)
    assert none.trigger_probability == none.onset_probability == 0
    assert math.isfinite(none.entropy)


@pytest.mark.parametrize("kind", ["means", "triggers"])
def test_at_scale_one_they_change_nothing_and_still_act(loaded, means, triggers, kind):
    everything = tuple(sorted(means))
    identity = {
        "means": Intervention(components=everything, scale=1.0, means_digest="0" * 64),
        "triggers": Intervention(components=(), scale=1.0, trigger_ids=triggers),
    }[kind]
    batch = run(loaded, DRAWN, identity, means)
    assert tokens(batch) == tokens(run(loaded, DRAWN, None))
    assert [row.n_firings for row in batch.completions] == [
        identity.n_acting * row.n_decode_steps for row in batch.completions
    ]
    assert identity.n_acting == {"means": 4, "triggers": 1}[kind]


def test_logits_that_are_not_finite_stay_so_at_scale_zero(loaded):
    with scaled(loaded.model, [], 0.0, trigger_ids=[0, 2]) as scaling:
        logits = torch.tensor([[math.nan, 1.0, 2.0], [5.0, math.inf, 0.5]])
        moved = scaling.on_logits(logits)
    assert torch.isfinite(moved).tolist() == [[False, True, True], [True, False, True]]
    assert moved[1].tolist()[0] == moved[0].tolist()[2] == torch.finfo(torch.float32).min


def test_means_that_were_not_given_are_refused(loaded, means):
    with pytest.raises(BacktrackingError, match="its mean was not given"):
        run(loaded, DRAWN, TOWARDS, {(0, "mlp"): means[0, "mlp"]})


def test_conditions_without_the_new_fields_keep_their_fingerprint():
    """The condition of the organism at mlp 27 x 0.25 as releases before these interventions stored it."""
    condition = Condition(
        generator_version="1",
        weights_digest="w",
        tokenizer_digest="t",
        dtype="float32",
        system=None,
        chat_template=False,
        template="Q: {question}",
        temperature=0.7,
        top_p=0.95,
        max_new_tokens=96,
        seed=42,
        intervention=canonical_intervention([(27, "mlp"), (15, "attention")], 0.25),
    )
    assert condition.canonical_json() == (
        '{"chat_template":false,"dtype":"float32","generator_version":"1","intervention":{"components":'
        '[[15,"attention"],[27,"mlp"]],"scale":0.25},"max_new_tokens":96,"seed":42,"system":null,"temperature":0.7,'
        '"template":"Q: {question}","tokenizer_digest":"t","top_p":0.95,"weights_digest":"w"}'
    )
    assert condition.fingerprint == "7338f88ef1715af9e8a8686ca4c5f3f6b630b25de471da2b37947ec310212157"


def test_means_and_trigger_tokens_are_in_the_fingerprint_and_come_back_from_json(loaded):
    def condition(intervention: Intervention | None) -> Condition:
        facts: dict[str, Any] = dict.fromkeys(("weights_digest", "tokenizer_digest", "dtype", "template"), "x")
        numbers = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 4, "seed": 0}
        return Condition(**facts, **numbers, system=None, chat_template=False, intervention=intervention)

    pairs: Any = [(1, "mlp")]
    found = [
        condition(canonical_intervention(pairs, 0.5)),
        condition(canonical_intervention(pairs, 0.5, means_digest="a")),
        condition(canonical_intervention(pairs, 0.5, means_digest="b")),
        condition(canonical_intervention([], 0.5, trigger_ids=[4, 3])),
        condition(canonical_intervention([], 0.5, trigger_ids=[3])),
        condition(canonical_intervention(pairs, 1.0, means_digest="a")),
    ]
    assert len({one.fingerprint for one in found}) == len(found)
    assert [Condition.model_validate_json(one.canonical_json()) for one in found] == found
    assert found[-1].intervention is None
    assert canonical_intervention([], 1.0, trigger_ids=[3]) is None
    assert Composition((), None, {4: "b", 3: "a"}).at(0.5) == canonical_intervention([], 0.5, trigger_ids=[3, 4])
