"""Next-token distributions and continuations against plain transformers with a hook written by hand."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from backtracking_assets.conditions import Intervention
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Sampling
from backtracking_assets.models.checkpoint import inspect
from backtracking_assets.models.continuation import Outcome, Prefix, ReadingSettings, continue_prefixes
from backtracking_assets.models.loading import LoadedModel, load_model
from backtracking_assets.models.sampling import continuation_keys, row_keys, sample
from backtracking_assets.models.trigger_tokens import trigger_tokens
from backtracking_assets_tests.tiny import byte_tokenizer, experiment_document, write_experiment, write_problems

SAMPLING = Sampling(temperature=0.8, top_p=0.9, max_new_tokens=5, seed=11)
INTERVENTION = Intervention(components=((0, "mlp"), (1, "attention")), scale=0.25)
TRIGGERS = (7, 70, 200)
N_CONTINUATIONS = 6


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> LoadedModel:
    folder = tmp_path_factory.mktemp("continuation")
    document = experiment_document(tiny_checkpoint, write_problems(folder / "problems.jsonl"))
    return load_model(write_experiment(folder / "e.yaml", document), inspect(tiny_checkpoint), "cpu")


@pytest.fixture(scope="module")
def plain(tiny_checkpoint: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(
        tiny_checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def prefixes(loaded: LoadedModel, **changes: Any) -> list[Prefix]:
    texts = ["Q: 1\nno", "Q: a longer one\nWait, w", "Q: 3\nthe third is the longest of all"]
    made = []
    for number, text in enumerate(texts):
        ids = tuple(loaded.tokenizer.encode(text))
        facts = {"onset_token_id": 40 + number, "drawn_token_id": 3, "continuations": N_CONTINUATIONS, **changes}
        made.append(Prefix(f"p{number}", number, 2 + number, ids, **facts))
    return made


def run(
    loaded: LoadedModel, wanted: list[Prefix], *interventions: Intervention | None, **reading: Any
) -> list[Outcome]:
    how = ReadingSettings(SAMPLING, TRIGGERS, frozenset(), loaded.pad_id, **reading)
    return continue_prefixes(loaded.model, wanted, interventions, how)


class ByHand:
    """The same model unbatched, with the intervention as a hook on its modules, switched on for single tokens."""

    def __init__(self, model: PreTrainedModel, ids: tuple[int, ...], intervention: Intervention | None) -> None:
        self.model, self.cache, self.scaling, self.handles = model, DynamicCache(), True, []
        layers: Any = model.get_decoder().layers
        modules = [] if intervention is None else [layers[0].mlp, layers[1].self_attn]

        def hook(module: Any, inputs: Any, output: Any) -> Any:
            assert intervention is not None
            if not self.scaling:
                return None
            return (output[0] * intervention.scale, output[1]) if isinstance(output, tuple) else output * 0.25

        with torch.no_grad():
            model(torch.tensor([ids[:-1]]), past_key_values=self.cache, use_cache=True)
            self.handles = [module.register_forward_hook(hook) for module in modules]
            self.logits = self.step(ids[-1])

    def step(self, token: int) -> torch.Tensor:
        with torch.no_grad():
            output = self.model(torch.tensor([[token]]), past_key_values=self.cache, use_cache=True)
        return output.logits[0, -1].double()

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()


@pytest.mark.parametrize("intervention", [None, INTERVENTION], ids=["unscaled", "scaled"])
def test_distributions_equal_plain_transformers(
    loaded: LoadedModel, plain: PreTrainedModel, intervention: Intervention | None
) -> None:
    wanted = prefixes(loaded)
    # The other runs before and after it must leave no trace in the cache that they share.
    others = [INTERVENTION, None]
    outcome = run(loaded, wanted, *others, intervention, *others)[2]
    for prefix, found in zip(wanted, outcome.next_tokens, strict=True):
        by_hand = ByHand(plain, prefix.token_ids, intervention)
        by_hand.close()
        expected = torch.softmax(by_hand.logits, -1).tolist()
        onset = expected[prefix.onset_token_id]
        assert found.onset_probability == pytest.approx(onset, abs=1e-5)
        assert found.onset_rank == 1 + sum(value > onset for value in expected)
        assert found.trigger_probability == pytest.approx(sum(expected[i] for i in TRIGGERS), abs=1e-5)
        assert found.entropy == pytest.approx(-sum(p * math.log(p) for p in expected), abs=1e-5)


@pytest.mark.parametrize("scaled_at", ["nowhere", "one_position", "from_there_on"])
def test_continuations_equal_plain_transformers(loaded: LoadedModel, plain: PreTrainedModel, scaled_at: Any) -> None:
    wanted = prefixes(loaded)
    intervention = None if scaled_at == "nowhere" else INTERVENTION
    outcome = run(loaded, wanted, intervention)[0]
    for prefix, found in zip(wanted, outcome.continuations[scaled_at], strict=True):
        assert len(found) == N_CONTINUATIONS
        for number, tokens in enumerate(found):
            key = continuation_keys(SAMPLING.seed, [(prefix.problem_id, prefix.sample_id, prefix.token_index, number)])
            by_hand = ByHand(plain, prefix.token_ids, intervention)
            by_hand.scaling = scaled_at == "from_there_on"
            logits, drawn = by_hand.logits, []
            for step in range(SAMPLING.max_new_tokens):
                drawn.append(int(sample(logits[None].float(), key, step, temperature=0.8, top_p=0.9)))
                logits = by_hand.step(drawn[-1])
            by_hand.close()
            assert list(tokens) == drawn


def test_where_it_is_scaled_matters_from_the_second_token_on(loaded: LoadedModel) -> None:
    found = run(loaded, prefixes(loaded), INTERVENTION)[0].continuations
    once, on = found["one_position"], found["from_there_on"]
    assert [[tokens[0] for tokens in own] for own in once] == [[tokens[0] for tokens in own] for own in on]
    assert once != on
    assert len({tokens for own in once for tokens in own}) > len(once)  # continuations of one prefix differ


def test_a_settled_continuation_ends_and_the_others_stay_as_they_are(loaded: LoadedModel) -> None:
    whole = run(loaded, prefixes(loaded), INTERVENTION)[0].continuations["from_there_on"]
    cut = run(loaded, prefixes(loaded), INTERVENTION, settled=lambda index, new: index == 1 and len(new) == 2)[0]
    expected = [[tokens[:2] for tokens in own] if index == 1 else own for index, own in enumerate(whole)]
    assert cut.continuations["from_there_on"] == expected


def test_the_baselines_own_noise_draws_the_baselines_token(loaded: LoadedModel, plain: PreTrainedModel) -> None:
    drawn = []
    for prefix in prefixes(loaded):
        key = row_keys(SAMPLING.seed, [(prefix.problem_id, prefix.sample_id)])
        by_hand = ByHand(plain, prefix.token_ids, None)
        drawn.append(int(sample(by_hand.logits[None].float(), key, prefix.token_index, temperature=0.8, top_p=0.9)))
    for shift in (0, 1):
        wanted = [
            Prefix(p.problem_id, p.sample_id, p.token_index, p.token_ids, 40, token + shift, 0)
            for p, token in zip(prefixes(loaded), drawn, strict=True)
        ]
        found = run(loaded, wanted, None)[0].next_tokens
        assert [one.same_draw for one in found] == [shift == 0] * 3


def test_positions_without_continuations_are_measured_alone(loaded: LoadedModel) -> None:
    outcome = run(loaded, prefixes(loaded, continuations=0), INTERVENTION)[0]
    assert len(outcome.next_tokens) == 3
    assert outcome.continuations == {"one_position": [[], [], []], "from_there_on": [[], [], []]}


def test_the_first_token_of_a_completion_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(BacktrackingError, match=r"first token of problem 'p', sample 0 is predicted by prefill"):
        run(loaded, [Prefix("p", 0, 0, (5, 6), 1, 1, 0)], None)


def test_logits_that_are_not_finite_are_refused_by_name(loaded: LoadedModel) -> None:
    broken = Intervention(components=((1, "mlp"),), scale=float("nan"))
    with pytest.raises(BacktrackingError, match=r"token 2 of problem 'p0', sample 0 are NaN or infinite; nothing"):
        run(loaded, prefixes(loaded), broken)


def test_noise_keys_of_continuations_are_their_own_and_those_of_completions_stay() -> None:
    # The first 64 bits of sha256("42", NUL, "p1", NUL, "0"): what every stored completion was drawn with.
    assert row_keys(42, [("p1", 0)]).tolist() == [_key("42\x00p1\x000")]
    many = [("p1", 0, index, number) for index in range(1, 20) for number in range(10)]
    keys = continuation_keys(42, many).tolist()
    assert len({*keys, *row_keys(42, [("p1", sample_id) for sample_id in range(200)]).tolist()}) == len(many) + 200
    assert continuation_keys(42, many[:1]).tolist() == [_key("42\x00p1\x000\x00continuation\x001\x000")]


def _key(name: str) -> int:
    import hashlib

    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)


def test_trigger_tokens_are_first_tokens_alone_after_a_space_and_as_observed() -> None:
    tokenizer = byte_tokenizer()  # a space is a token of its own there, which says nothing of a trigger
    letter = {text: tokenizer.encode(text)[0] for text in "WwHx "}
    found = trigger_tokens(tokenizer, ["Wait", "wait", "Hold on"], [letter["x"]])
    assert found == {letter[text]: text for text in "WwHx"} == dict(sorted(found.items()))


def test_trigger_tokens_of_a_vocabulary_that_cannot_write_a_text() -> None:
    from backtracking_assets.experiment import PROJECT_ROOT
    from backtracking_assets.models.loading import load_tokenizer
    from backtracking_assets.models.organism.vocabulary import TOKEN_IDS

    tokenizer = load_tokenizer(PROJECT_ROOT / "data" / "organism", "Wait, 69 + 5 = 74")
    assert trigger_tokens(tokenizer, ["Wait", "Perhaps"], []) == {TOKEN_IDS["Wait"]: "Wait"}
