"""Completions of 16,384 tokens: as long as a reasoning model goes on when nothing stops it."""

import ctypes
import json
import resource
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from backtracking_assets.conditions import Intervention
from backtracking_assets.experiment_sections import Sampling
from backtracking_assets.models.chunk_state import ChunkState
from backtracking_assets.models.generation import Request, generate
from backtracking_assets.models.lean_blocks import make_lean
from backtracking_assets.models.memory_plan import Budget, model_shape, plan_chunk, size
from backtracking_assets.models.slot_cache import ATTENTION
from backtracking_assets.storage.chunk_progress import ChunkProgress, read_progress, write_progress
from backtracking_assets.storage.chunks import chunk_of
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets_tests.integration.processes import finish, start

_FINGERPRINT = "f" * 64
CAP = 16_384
LAST = 16_300
"""The step at which the state is kept."""


def _generate(report: str) -> None:
    ctypes.CDLL(None).mallopt(-3, 131_072)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=131,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=28,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).eval()
    model.set_attn_implementation(ATTENTION)
    make_lean(model)
    requests = [Request("p", 0, (1, 2, 3, 4)), Request("p", 1, (1, 2, 3, 4)), Request("q", 0, (7, 8))]
    sampling = Sampling(temperature=1.0, top_p=0.95, max_new_tokens=CAP, seed=0)
    intervention = Intervention(components=((27, "mlp"),), scale=0.5)
    layout, chunk = StoreLayout(Path(report).parent), chunk_of(_FINGERPRINT, [("p", 0), ("p", 1), ("q", 0)])
    layout.journal_of(_FINGERPRINT).mkdir(parents=True)
    asked = 0

    def keep(take: Callable[[], ChunkState]) -> None:
        nonlocal asked
        if asked == LAST:
            state = take()
            write_progress(layout, _FINGERPRINT, chunk, "", ChunkProgress(state.facts, state.arrays))
        asked += 1

    # What libraries take at their first use is no part of the plan of a chunk.
    few = sampling.model_copy(update={"max_new_tokens": 32})
    generate(model, requests, few, intervention, stop_ids=frozenset(), pad_id=0)
    before = psutil.Process().memory_info().rss
    whole = generate(model, requests, sampling, intervention, stop_ids=frozenset(), pad_id=0, on_state=keep)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    kept = read_progress(layout, _FINGERPRINT, chunk, "")
    assert kept is not None
    state = ChunkState(kept.facts, kept.arrays)
    resumed = generate(model, requests, sampling, intervention, stop_ids=frozenset(), pad_id=0, resume_from=state)
    plan = plan_chunk(
        model_shape(config.to_dict(), "float32"),
        Budget("cpu", 2**60, 2**60),
        n_completions=3,
        n_prompts=2,
        longest_prompt=4,
        max_new_tokens=CAP,
    )
    facts = {
        "lengths": [len(row.token_ids) for row in whole.completions],
        "reasons": [row.finish_reason for row in whole.completions],
        "firings": [row.n_firings for row in whole.completions],
        "step": state.steps,
        "same": whole.completions == resumed.completions,
        "taken": taken,
        "planned": plan.n_bytes(3) - plan.shape.weights_bytes,
        "keys_and_values": plan.keys_and_values,
        "seconds": whole.seconds,
    }
    Path(report).write_text(json.dumps(facts), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_three_completions_of_16k_tokens_take_about_what_is_planned_and_go_on_near_their_end(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    assert finish(start(_generate, str(report)), timeout=3600) == 0
    facts = json.loads(report.read_text(encoding="utf-8"))
    print(facts)
    assert facts["lengths"] == [CAP] * 3
    assert facts["reasons"] == ["length"] * 3
    assert facts["firings"] == [CAP - 1] * 3
    assert facts["step"] == LAST
    assert facts["same"]
    # Python's own objects come on top; they are what the share of memory is for that is not planned with.
    taken, planned = facts["taken"], facts["planned"]
    assert facts["keys_and_values"] < taken < 1.05 * planned, (size(taken), size(planned))
