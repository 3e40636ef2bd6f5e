"""Decoding on buffers that stay in place, run uncaptured, against plain decoding; and lean blocks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from backtracking_assets.conditions import Intervention
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Sampling
from backtracking_assets.models import generation, sampling, static_decoding
from backtracking_assets.models.checkpoint import inspect
from backtracking_assets.models.forward_passes import decode_step, prefill
from backtracking_assets.models.generation import Generated, Request, generate
from backtracking_assets.models.lean_blocks import make_lean
from backtracking_assets.models.loading import LoadedModel, load_model
from backtracking_assets.models.sampling import row_keys, sample
from backtracking_assets.models.slot_cache import ATTENTION, SlotCache, left_padded
from backtracking_assets.models.static_decoding import StaticDecoding
from backtracking_assets_tests.tiny import experiment_document, make_checkpoint, write_experiment, write_problems

DRAWN = Sampling(temperature=1.0, top_p=0.95, max_new_tokens=24, seed=5)
GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=24, seed=0)
ALL_KEPT = DRAWN.model_copy(update={"top_p": 1.0})
INTERVENTION = Intervention(components=((0, "mlp"), (1, "attention")), scale=0.3)
MOVED = Intervention(components=(), scale=0.25, trigger_ids=(5, 70, 99))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> LoadedModel:
    folder = tmp_path_factory.mktemp("static")
    document = experiment_document(tiny_checkpoint, write_problems(folder / "problems.jsonl"))
    return load_model(write_experiment(folder / "e.yaml", document), inspect(tiny_checkpoint), "cpu")


def run(loaded: LoadedModel, sampling: Sampling, intervention: Intervention | None, rows: int = 16) -> list[Generated]:
    prompts = [tuple(loaded.tokenizer.encode(f"Q: {'x' * (3 * i)} {i}\n")) for i in range(8)]
    wanted = [Request(f"p{i}", s, prompt) for i, prompt in enumerate(prompts) for s in range(2)]
    how: dict[str, Any] = {"stop_ids": loaded.stop_ids, "pad_id": loaded.pad_id}
    return generate(loaded.model, wanted[:rows], sampling, intervention, **how).completions


@contextmanager
def static(monkeypatch: pytest.MonkeyPatch, candidates: int = 256) -> Iterator[list[int]]:
    """Generate on buffers that stay in place, in small buckets. Yields the tokens to which decoding went back."""
    went_back: list[int] = []
    go_back = StaticDecoding._go_back

    def noted(self: StaticDecoding, step: int) -> None:
        went_back.append(step)
        go_back(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(static_decoding, "CAPTURED_ROWS", 3)
        patch.setattr(static_decoding, "CAPTURED_COLUMNS", 8)
        patch.setattr(sampling, "_CANDIDATES_UNSEEN", candidates)
        patch.setattr(StaticDecoding, "_go_back", noted)
        patch.setattr(generation, "decoding_for", lambda *args, **named: StaticDecoding(*args, **named, capture=False))
        yield went_back


@pytest.mark.parametrize("how", [DRAWN, GREEDY, ALL_KEPT], ids=["drawn", "greedy", "all kept"])
@pytest.mark.parametrize("intervention", [None, INTERVENTION, MOVED], ids=["none", "scaled", "moved"])
def test_fixed_buffers_give_the_same_completions(loaded, monkeypatch, how: Sampling, intervention: Intervention | None):
    plain = run(loaded, how, intervention)
    with static(monkeypatch):
        assert run(loaded, how, intervention) == plain
    assert how is GREEDY or len({len(row.token_ids) for row in plain}) > 2


@pytest.mark.parametrize(("rows", "candidates"), [(1, 8), (1, 24), (3, 48), (16, 48), (16, 2)])
def test_a_draw_that_candidates_do_not_suffice_for_is_done_again(loaded, monkeypatch, rows: int, candidates: int):
    sharp = DRAWN.model_copy(update={"temperature": 0.5})
    plain = run(loaded, sharp, INTERVENTION, rows)
    with static(monkeypatch, candidates) as went_back:
        assert run(loaded, sharp, INTERVENTION, rows) == plain
    # Where hardly any draw is certain, every step is looked at and drawn again without going back.
    assert went_back or candidates == 2


def test_rows_without_finite_logits_end_and_no_other(loaded, monkeypatch):
    head: Any = loaded.model.get_output_embeddings()
    plain = run(loaded, DRAWN, INTERVENTION)
    passes = iter(range(1000))

    def spoil(module, inputs, output):
        if next(passes) == 2:  # no row has ended by then
            output = output.clone()
            output[3] = float("nan")
        return output

    handle = head.register_forward_hook(spoil)
    try:
        with static(monkeypatch):
            spoiled = run(loaded, DRAWN, INTERVENTION)
    finally:
        handle.remove()
    assert [row.finish_reason for row in spoiled].count("non_finite") == 1
    assert spoiled[3].token_ids == plain[3].token_ids[:2]
    assert spoiled[3].n_firings == 2 * spoiled[3].n_decode_steps == 4
    assert [row for row in spoiled if row is not spoiled[3]] == [row for row in plain if row is not plain[3]]


def test_a_component_that_does_not_fire_is_an_error(loaded, monkeypatch):
    mlp = loaded.model.get_decoder().layers[0].mlp
    monkeypatch.setattr(type(mlp), "__call__", lambda self, hidden: self.forward(hidden))
    with static(monkeypatch), pytest.raises(BacktrackingError, match="mlp layer 0 fired 0 times"):
        run(loaded, DRAWN, INTERVENTION)


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_lean_blocks_give_the_logits_of_the_library_s_own(tmp_path: Path, family: str):
    folder = make_checkpoint(tmp_path, family=family)
    logits = []
    for lean in (False, True):
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=ATTENTION).eval()
        weights = {name: values.clone() for name, values in model.state_dict().items()}
        assert not lean or make_lean(model) == 7  # two blocks, four norms in them, one at the end
        assert make_lean(model) == 0 if lean else True
        assert all(torch.equal(values, weights[name]) for name, values in model.state_dict().items())
        ids, padding = left_padded([[5, 9, 70], [33, 4, 5, 6, 7]], 0, model.device)
        cache, columns = SlotCache(2, 12), torch.arange(12)
        with torch.inference_mode():
            steps = [prefill(model, ids, padding, cache)]
            steps += [decode_step(model, torch.tensor([i, 90 - i]), padding, cache, columns, None) for i in range(6)]
        logits.append(torch.stack(steps))
    assert torch.allclose(logits[0], logits[1], atol=1e-4)


@pytest.mark.parametrize("top_p", [1e-9, 0.3, 0.95, 0.999999])
@pytest.mark.parametrize("spread", [0.5, 3.0, 30.0])
def test_candidates_draw_what_the_whole_ranking_draws(top_p: float, spread: float):
    """Ties at every rank: logits are multiples of a half."""
    source = torch.Generator().manual_seed(0)
    logits = (torch.randn(200, 300, generator=source) * spread * 2).round() / 2
    keys = row_keys(3, [(f"p{i}", 0) for i in range(200)])
    scores = torch.log_softmax(logits / 0.7, dim=-1)
    inside = scores.masked_fill(~sampling.nucleus(scores.exp(), top_p), -torch.inf)
    whole = (inside.double() + sampling.gumbel_noise(keys, 4, 300)).argmax(dim=-1)
    assert torch.equal(sample(logits, keys, 4, temperature=0.7, top_p=top_p), whole)
    step = torch.tensor([4])
    drawn, certain = sampling.draw_from_candidates(scores, scores.exp(), keys, step, top_p, 20)
    assert torch.equal(drawn[certain], whole[certain])
    assert not certain.all() if (spread, top_p) == (0.5, 0.95) else True
