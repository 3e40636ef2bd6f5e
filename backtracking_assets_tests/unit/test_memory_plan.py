"""Planned memory against real tensors and a real process, and the batches that follow from it."""

import ctypes
import json
import resource
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from backtracking_assets.assets.memory_planning import too_little_free
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Sampling
from backtracking_assets.models.forward_passes import prefill
from backtracking_assets.models.generation import Request, generate
from backtracking_assets.models.memory import device_memory
from backtracking_assets.models.memory_plan import (
    GIB,
    Budget,
    MemoryPlan,
    ModelShape,
    budget_of,
    checkpoint_shape,
    model_shape,
    plan_chunk,
    size,
)
from backtracking_assets.models.slot_cache import ATTENTION, SlotCache, left_padded
from backtracking_assets_tests.integration.processes import finish, start

UNBOUNDED = Budget("cpu", 2**60, 2**60)
REAL = model_shape(
    {
        "vocab_size": 151_936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
        "max_position_embeddings": 131_072,
        "model_type": "qwen2",
    },
    "bfloat16",
)
"""DeepSeek-R1-Distill-Qwen-1.5B."""


def random_model(family: str, dtype: torch.dtype, **changes: int | bool) -> PreTrainedModel:
    config = {
        "vocab_size": 300,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        **changes,
    }
    made = Qwen2ForCausalLM(Qwen2Config(**config)) if family == "qwen2" else LlamaForCausalLM(LlamaConfig(**config))
    made.set_attn_implementation(ATTENTION)
    return made.to(dtype=dtype).eval()  # type: ignore[arg-type] - the library's own `to` has no usable type


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen2", {"tie_word_embeddings": False, "num_key_value_heads": 1}),
        ("llama", {"tie_word_embeddings": False, "num_key_value_heads": 4}),
        ("llama", {"tie_word_embeddings": True, "head_dim": 20, "attention_bias": False}),
    ],
)
def test_weights_keys_and_values_are_those_of_the_real_tensors(
    family: str, changes: dict[str, int | bool], dtype: str, tmp_path: Path
) -> None:
    model = random_model(family, getattr(torch, dtype), **changes)
    model.save_pretrained(tmp_path)
    held = sum(parameter.nbytes for parameter in model.parameters())
    counted = checkpoint_shape(tmp_path, dtype)
    computed = model_shape(json.loads((tmp_path / "config.json").read_text(encoding="utf-8")), dtype)
    assert counted == computed
    assert counted.weights_bytes == held

    prompts = [(1, 2, 3, 4, 5), (1, 2), (7, 8, 9)]
    plan = plan_chunk(counted, UNBOUNDED, n_completions=3, n_prompts=3, longest_prompt=5, max_new_tokens=11)
    cache = SlotCache(3, plan.capacity)
    with torch.inference_mode():
        prefill(model, *left_padded(prompts, 0, torch.device("cpu")), cache)
    buffers = [buffer for buffer in (*cache._keys, *cache._values) if buffer is not None]
    assert len(buffers) == 6
    assert sum(buffer.nbytes for buffer in buffers) == plan.keys_and_values


CASES = {
    "vocabulary": {"vocabulary": 60_000, "width": 64, "rows": 32, "prompt": 8, "new": 3},
    "keys and values": {"vocabulary": 200, "width": 64, "rows": 48, "prompt": 600, "new": 20},
    "prefill": {"vocabulary": 200, "width": 1024, "rows": 16, "prompt": 400, "new": 2},
}
"""Shapes in which one part of what is planned outweighs all others."""

_FIXED_MMAP_THRESHOLD = (-3, 131_072)
"""`M_MMAP_THRESHOLD` of mallopt: the allocator then gives large tensors back at once, as that of a GPU reuses them."""


def _measure(case: str, report: str) -> None:
    """Write the bytes that a chunk took at most, and the plan for it."""
    ctypes.CDLL(None).mallopt(*_FIXED_MMAP_THRESHOLD)
    torch.set_num_threads(1)
    shape, (model, requests, sampling) = CASES[case], _chunk(case)
    warm_up = [replace(request, prompt_ids=request.prompt_ids[:4]) for request in requests[:2]]
    generate(model, warm_up, sampling, None, stop_ids=frozenset(), pad_id=0)
    before = psutil.Process().memory_info().rss
    generate(model, requests, sampling, None, stop_ids=frozenset(), pad_id=0)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    plan = plan_chunk(
        model_shape(model.config.to_dict(), "float32"),
        UNBOUNDED,
        n_completions=shape["rows"],
        n_prompts=len({request.prompt_ids for request in requests}),
        longest_prompt=shape["prompt"],
        max_new_tokens=shape["new"],
    )
    planned = plan.n_bytes(plan.rows) - plan.shape.weights_bytes
    Path(report).write_text(json.dumps([taken, planned]), encoding="utf-8")


def _chunk(case: str) -> tuple[PreTrainedModel, list[Request], Sampling]:
    shape = CASES[case]
    torch.manual_seed(0)
    model = random_model(
        "qwen2",
        torch.float32,
        vocab_size=shape["vocabulary"],
        hidden_size=64,
        intermediate_size=shape["width"],
        num_key_value_heads=4,
    )
    same = case == "keys and values"
    prompts = [tuple(range(1 if same else i, shape["prompt"] + (1 if same else i))) for i in range(shape["rows"])]
    requests = [Request(f"p{i}", 0, tuple(t % 200 for t in prompt)) for i, prompt in enumerate(prompts)]
    return model, requests, Sampling(temperature=1.0, top_p=0.95, max_new_tokens=shape["new"], seed=0)


@pytest.mark.parametrize("case", CASES)
def test_a_chunk_takes_no_more_than_is_planned_and_more_than_half_of_it(case: str, tmp_path: Path) -> None:
    report = tmp_path / "measured.json"
    assert finish(start(_measure, case, str(report))) == 0
    taken, planned = json.loads(report.read_text(encoding="utf-8"))
    assert 0.5 * planned < taken < 1.05 * planned, (size(taken), size(planned))


@pytest.mark.gpu
def test_on_a_gpu_a_chunk_takes_no_more_than_is_planned() -> None:
    for case, facts in CASES.items():
        model, requests, sampling = _chunk(case)
        model.to("cuda")  # type: ignore[arg-type] - the library's own `to` has no usable type
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        generate(model, requests, sampling, None, stop_ids=frozenset(), pad_id=0)
        taken = torch.cuda.max_memory_allocated() - before
        plan = plan_chunk(
            model_shape(model.config.to_dict(), "float32"),
            UNBOUNDED,
            n_completions=facts["rows"],
            n_prompts=len({request.prompt_ids for request in requests}),
            longest_prompt=facts["prompt"],
            max_new_tokens=facts["new"],
        )
        planned = plan.n_bytes(plan.rows) - plan.shape.weights_bytes
        assert taken < 1.1 * planned, (case, size(taken), size(planned))


def plan_real(gib: float, *, n: int = 48, new: int = 16_384, prompt: int = 120) -> MemoryPlan:
    budget = Budget("cuda:0", int(gib * GIB), int(gib * GIB))
    return plan_chunk(REAL, budget, n_completions=n, n_prompts=12, longest_prompt=prompt, max_new_tokens=new)


def test_the_real_model_at_16k_tokens() -> None:
    assert REAL.n_parameters == 1_777_088_000
    assert REAL.token_bytes == 28_672
    whole = plan_real(40)
    assert (whole.rows, whole.n_batches) == (48, 1)
    assert whole.keys_and_values == 48 * 16_504 * 28_672
    assert str(whole).startswith("48 completions a chunk in 1 batch of 48: 3.3 GiB weights + 21.2 GiB keys and values")
    # As few batches as fit, and these of one size: a machine with a little less memory mostly has the same.
    assert [(plan_real(gib).rows_that_fit, plan_real(gib).rows) for gib in (20, 16, 12)] == [
        (33, 24),
        (25, 24),
        (17, 16),
    ]
    assert plan_real(16).n_bytes(24) <= 16 * GIB


def test_a_plan_never_exceeds_what_is_planned_with_and_shrinks_with_it() -> None:
    rows = [plan_real(gib).rows_that_fit for gib in (5, 8, 12, 20, 30, 80)]
    assert rows == sorted(rows)
    assert rows[0] >= 1
    for gib in (5, 8, 12, 20):
        plan = plan_real(gib)
        assert plan.n_bytes(plan.rows_that_fit) <= gib * GIB < plan.n_bytes(plan.rows_that_fit + 1)
        assert plan.rows * plan.n_batches >= 48


def test_what_does_not_fit_is_refused_in_one_sentence() -> None:
    with pytest.raises(BacktrackingError) as refused:
        plan_real(3.5)
    assert str(refused.value) == (
        "Not even one completion fits into the memory that is planned with on cuda:0: 3.3 GiB weights + 508.4 MiB for "
        "16,504 tokens, of 3.5 GiB; nothing was generated: lower sampling.max_new_tokens, or use a larger device."
    )
    with pytest.raises(
        BacktrackingError, match=r"make 131,073 positions, and the model knows 131,072.*at most 130,952"
    ) as longer:
        plan_real(80, new=130_953)
    assert "\n" not in str(longer.value)


def test_the_budget_is_a_share_of_the_device_or_what_the_file_states() -> None:
    assert budget_of("cuda:1", 80 * GIB, None).n_bytes == int(80 * GIB * 0.85)
    assert budget_of("cpu", 8 * GIB, None).n_bytes == 4 * GIB
    stated = budget_of("cpu", 8 * GIB, 7.5)
    assert (stated.n_bytes, stated.stated) == (int(7.5 * GIB), True)
    with pytest.raises(
        BacktrackingError, match=r"generation.memory_gib is 9 and cpu has 8.0 GiB; nothing was generated"
    ):
        budget_of("cpu", 8 * GIB, 9)


def test_the_memory_of_this_machine() -> None:
    memory = device_memory("cpu")
    assert 0 < memory.usable <= memory.total <= psutil.virtual_memory().total


def test_a_plan_beyond_what_is_free_is_told_and_not_changed() -> None:
    fits = plan_chunk(
        REAL, Budget("cpu", 2**60, 2**60), n_completions=1, n_prompts=1, longest_prompt=9, max_new_tokens=9
    )
    small = replace(fits, shape=replace(REAL, n_parameters=0, vocabulary=100))
    assert too_little_free(small) is None
    large = replace(small, n_completions=1_000_000, rows_that_fit=1_000_000, max_new_tokens=10_000)
    told = too_little_free(large)
    assert told is not None
    assert told.startswith("A batch of 1000000 takes up to 273072.1 GiB and ")
    assert "of cpu are free: end what else runs there. Batches are not cut for it" in told


@pytest.mark.parametrize(
    ("scaling", "positions"),
    [
        ({}, 4096),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}}, 131_072),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}, 4096),
        ({"max_position_embeddings": None}, None),
    ],
)
def test_positions_that_a_scaled_embedding_adds_are_known(scaling: dict, positions: int | None) -> None:
    config = Qwen2Config(max_position_embeddings=4096).to_dict() | {"rope_scaling": None, "rope_parameters": None}
    shape: ModelShape = model_shape(config | scaling, "float32")
    assert shape.max_positions == positions
