"""Captured decode steps on a CUDA device: the tokens of uncaptured ones, hooks that act, rows that end."""

from pathlib import Path
from typing import Any

import pytest
import torch

from backtracking_assets.conditions import Intervention
from backtracking_assets.experiment_sections import Sampling
from backtracking_assets.models import generation, sampling, static_decoding
from backtracking_assets.models.checkpoint import inspect
from backtracking_assets.models.generation import Generated, Request, generate
from backtracking_assets.models.loading import LoadedModel, load_model
from backtracking_assets.models.static_decoding import StaticDecoding
from backtracking_assets_tests.tiny import experiment_document, write_experiment, write_problems

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DRAWN = Sampling(temperature=0.5, top_p=0.95, max_new_tokens=60, seed=5)
INTERVENTION = Intervention(components=((0, "mlp"), (1, "attention")), scale=0.3)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def loaded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path
) -> LoadedModel:
    folder = tmp_path_factory.mktemp("captured")
    document = experiment_document(tiny_checkpoint, write_problems(folder / "problems.jsonl"))
    document["model"]["dtype"] = request.param
    return load_model(write_experiment(folder / "e.yaml", document), inspect(tiny_checkpoint), "cuda:0")


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_decoding, "CAPTURED_ROWS", 8)
    monkeypatch.setattr(static_decoding, "CAPTURED_COLUMNS", 32)


def run(loaded: LoadedModel, intervention: Intervention | None) -> list[Generated]:
    prompts = [tuple(loaded.tokenizer.encode(f"Q: {'x' * (3 * i)} {i}\n")) for i in range(16)]
    wanted = [Request(f"p{i}", s, prompt) for i, prompt in enumerate(prompts) for s in range(4)]
    how: dict[str, Any] = {"stop_ids": loaded.stop_ids, "pad_id": loaded.pad_id}
    return generate(loaded.model, wanted, DRAWN, intervention, **how).completions


@pytest.mark.parametrize("intervention", [None, INTERVENTION], ids=["none", "scaled"])
@pytest.mark.parametrize("candidates", [256, 60, 2])
def test_captured_steps_give_the_tokens_of_uncaptured_ones(loaded, monkeypatch, caplog, intervention, candidates: int):
    monkeypatch.setattr(sampling, "_CANDIDATES_UNSEEN", candidates)
    captured = run(loaded, intervention)
    assert "cannot be captured" not in caplog.text
    assert run(loaded, intervention) == captured
    monkeypatch.setattr(
        generation, "decoding_for", lambda *args, **named: StaticDecoding(*args, **named, capture=False)
    )
    assert run(loaded, intervention) == captured
    n_acting = 0 if intervention is None else 2
    assert all(row.n_firings == n_acting * row.n_decode_steps for row in captured)


def test_hooks_act_in_captured_steps(loaded):
    pairs = list(zip(run(loaded, None), run(loaded, INTERVENTION), strict=True))
    assert all(one.token_ids[0] == other.token_ids[0] for one, other in pairs)  # prefill is untouched
    assert any(one.token_ids != other.token_ids for one, other in pairs)


def test_rows_without_finite_logits_end(loaded, monkeypatch):
    """The cache of one row is spoiled after prefill, as an overflow would spoil it."""
    spoil = StaticDecoding.prefill

    def prefill_and_spoil(self: StaticDecoding) -> torch.Tensor:
        logits = spoil(self)
        values = self.cache._values[0]
        assert values is not None
        values[3] = float("nan")
        return logits

    plain = run(loaded, INTERVENTION)
    monkeypatch.setattr(StaticDecoding, "prefill", prefill_and_spoil)
    spoiled = run(loaded, INTERVENTION)
    assert spoiled[3].finish_reason == "non_finite"
    assert len(spoiled[3].token_ids) == 1
    assert spoiled[:3] + spoiled[4:] == plain[:3] + plain[4:]
