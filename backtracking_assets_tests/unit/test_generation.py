"""The engine against transformers' own generate, with and without interventions, and its books."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from backtracking_assets.conditions import Intervention
from backtracking_assets.errors import BacktrackingError, CheckpointError
from backtracking_assets.experiment_sections import Sampling
from backtracking_assets.models import generation
from backtracking_assets.models.checkpoint import inspect
from backtracking_assets.models.generation import Batch, Request, generate
from backtracking_assets.models.interventions import scaled
from backtracking_assets.models.loading import LoadedModel, load_model
from backtracking_assets_tests.tiny import experiment_document, make_checkpoint, write_experiment, write_problems

GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=24, seed=0)
DRAWN = Sampling(temperature=1.0, top_p=0.95, max_new_tokens=24, seed=5)
INTERVENTION = Intervention(components=((0, "mlp"), (1, "attention")), scale=0.3)


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = make_checkpoint(folder / "checkpoint", family=request.param)
    problems = write_problems(folder / "problems.jsonl")
    experiment = write_experiment(folder / "e.yaml", experiment_document(checkpoint, problems))
    return load_model(experiment, inspect(checkpoint), "cpu")


def requests(loaded: LoadedModel, n: int = 7, samples: int = 2) -> list[Request]:
    texts = [f"Q: {'x' * (3 * i)} {i}\n" for i in range(n)]
    prompts = [tuple(loaded.tokenizer.encode(text)) for text in texts]
    return [Request(f"p{i}", s, prompt) for i, prompt in enumerate(prompts) for s in range(samples)]


def run(loaded: LoadedModel, wanted: list[Request], sampling: Sampling, intervention: Intervention | None) -> Batch:
    return generate(loaded.model, wanted, sampling, intervention, stop_ids=loaded.stop_ids, pad_id=loaded.pad_id)


def tokens(batch: Batch) -> list[list[int]]:
    return [completion.token_ids for completion in batch.completions]


@contextmanager
def scaled_by_wrapping(model: PreTrainedModel, scale: float) -> Iterator[None]:
    """The same intervention written another way: forward methods replaced, decode steps told by their length of 1."""
    layers: Any = model.get_decoder().layers
    attention, mlp = layers[1].self_attn, layers[0].mlp
    original_attention, original_mlp = attention.forward, mlp.forward

    def scaled_attention(*args, **kwargs):
        output, weights = original_attention(*args, **kwargs)
        return (output * scale if output.shape[1] == 1 else output), weights

    def scaled_mlp(hidden):
        output = original_mlp(hidden)
        return output * scale if hidden.shape[1] == 1 else output

    attention.forward, mlp.forward = scaled_attention, scaled_mlp
    try:
        yield
    finally:
        attention.forward, mlp.forward = original_attention, original_mlp


def reference(loaded: LoadedModel, request: Request) -> list[int]:
    """One prompt through transformers' generate."""
    loaded.model.set_attn_implementation("sdpa")
    try:
        model: Any = loaded.model
        output = model.generate(
            torch.tensor([request.prompt_ids]),
            max_new_tokens=GREEDY.max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(loaded.stop_ids),
            pad_token_id=loaded.pad_id,
        )
    finally:
        loaded.model.set_attn_implementation("backtracking_grouped")
    return output[0, len(request.prompt_ids) :].tolist()


def test_greedy_equals_transformers_token_by_token(loaded):
    wanted = requests(loaded)
    assert tokens(run(loaded, wanted, GREEDY, None)) == [reference(loaded, request) for request in wanted]


def test_greedy_with_an_intervention_equals_one_written_independently(loaded):
    wanted = requests(loaded, samples=1)
    ours = tokens(run(loaded, wanted, GREEDY, INTERVENTION))
    with scaled_by_wrapping(loaded.model, INTERVENTION.scale):
        theirs = [reference(loaded, request) for request in wanted]
    assert ours == theirs
    assert ours != tokens(run(loaded, wanted, GREEDY, None))


def test_prefill_is_untouched_so_the_first_token_is_the_baselines(loaded):
    ablated = Intervention(components=((0, "attention"), (0, "mlp"), (1, "attention"), (1, "mlp")), scale=0.0)
    pairs = zip(
        tokens(run(loaded, requests(loaded), DRAWN, None)),
        tokens(run(loaded, requests(loaded), DRAWN, ablated)),
        strict=True,
    )
    assert all(one[0] == other[0] for one, other in pairs)


def test_scale_one_with_hooks_in_place_equals_no_hooks(loaded):
    identity = Intervention(components=((0, "attention"), (0, "mlp"), (1, "attention"), (1, "mlp")), scale=1.0)
    with_hooks = run(loaded, requests(loaded), DRAWN, identity)
    assert tokens(with_hooks) == tokens(run(loaded, requests(loaded), DRAWN, None))
    assert all(row.n_firings == 4 * row.n_decode_steps for row in with_hooks.completions)


def test_firings_are_components_times_decode_steps_for_each_completion(loaded):
    batch = run(loaded, requests(loaded), DRAWN, INTERVENTION)
    assert [row.n_firings for row in batch.completions] == [2 * (len(row.token_ids) - 1) for row in batch.completions]
    assert len({len(row.token_ids) for row in batch.completions}) > 1


def test_progress_is_told_while_a_chunk_runs_and_changes_nothing(loaded, monkeypatch):
    monkeypatch.setattr(generation, "_TELL_EVERY_SECONDS", 0.0)
    told: list[tuple[int, int]] = []
    wanted = requests(loaded)
    batch = generate(
        loaded.model,
        wanted,
        DRAWN,
        INTERVENTION,
        stop_ids=loaded.stop_ids,
        pad_id=loaded.pad_id,
        on_step=lambda step, n_open: told.append((step, n_open)),
    )
    assert tokens(batch) == tokens(run(loaded, wanted, DRAWN, INTERVENTION))
    assert [step for step, _ in told] == list(range(1, batch.decode_steps + 1))
    still_open = [n_open for _, n_open in told]
    assert still_open == sorted(still_open, reverse=True)
    assert still_open[-1] >= 1


def test_the_same_chunk_gives_the_same_tokens_again(loaded):
    once, again = (tokens(run(loaded, requests(loaded), DRAWN, INTERVENTION)) for _ in range(2))
    assert once == again


def test_samples_of_a_problem_differ_and_seeds_differ(loaded):
    first = tokens(run(loaded, requests(loaded), DRAWN, None))
    assert first[0] != first[1]
    assert first != tokens(run(loaded, requests(loaded), DRAWN.model_copy(update={"seed": 6}), None))


def test_finish_reasons_are_true(loaded):
    batch = run(loaded, requests(loaded, n=12), DRAWN, None)
    for row in batch.completions:
        ended = row.token_ids[-1] in loaded.stop_ids
        assert row.finish_reason == ("eos" if ended else "length")
        assert not any(token in loaded.stop_ids for token in row.token_ids[:-1])
        assert ended or len(row.token_ids) == DRAWN.max_new_tokens
    assert {row.finish_reason for row in batch.completions} == {"eos", "length"}


def test_non_finite_logits_end_their_row_and_no_other(loaded):
    wanted = requests(loaded)
    before = run(loaded, wanted, DRAWN, None)
    head = loaded.model.get_output_embeddings()
    steps = iter(range(100))

    def spoil(module, inputs, output):
        # Row 3 of the batch breaks in the third forward pass; no row has ended by then.
        if next(steps) == 2:
            output = output.clone()
            output[3] = float("nan")
        return output

    handle = head.register_forward_hook(spoil)
    try:
        spoiled = run(loaded, wanted, DRAWN, INTERVENTION)
    finally:
        handle.remove()
    broken = [row for row in spoiled.completions if row.finish_reason == "non_finite"]
    assert len(broken) == 1
    assert len(broken[0].token_ids) == 2
    assert broken[0].n_firings == 2 * broken[0].n_decode_steps == 4
    assert len(before.completions) == len(spoiled.completions)


@pytest.mark.parametrize(
    ("told", "facts"),
    [
        (
            "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 39.39 GiB of which "
            "7.56 MiB is free.\nSee the documentation.",
            " (20.00 MiB more were needed, 7.56 MiB are free)",
        ),
        ("out of memory", ""),
    ],
)
def test_a_completion_that_does_not_fit_into_memory_is_one_sentence(loaded, told: str, facts: str):
    with (
        out_of_memory_above(loaded.model, 0, torch.OutOfMemoryError(told)),
        pytest.raises(BacktrackingError) as refused,
    ):
        run(loaded, requests(loaded), DRAWN, INTERVENTION)
    assert str(refused.value) == (
        f"One completion does not fit into the memory of cpu{facts}; "
        "lower sampling.max_new_tokens, or end what else runs there."
    )
    assert hooks_left(loaded.model) == 0


@contextmanager
def out_of_memory_above(model: PreTrainedModel, most: int, error: RuntimeError, step: int = 0) -> Iterator[list[int]]:
    """Have forward passes of more than `most` rows run out of memory, prefill first where `step` is 0.

    Yields:
        The rows of every forward pass that went through.
    """
    embeddings = model.get_input_embeddings()
    rows: list[int] = []
    passes = 0

    def fail(module, inputs, output):
        nonlocal passes
        passes = 0 if inputs[0].shape[1] > 1 else passes + 1
        if passes >= step and inputs[0].shape[0] > most:
            raise error
        rows.append(inputs[0].shape[0])

    handle = embeddings.register_forward_hook(fail)
    try:
        yield rows
    finally:
        handle.remove()


CPU_ERROR = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
OUT_OF_MEMORY = [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(f"{CPU_ERROR}allocate 40 bytes.")]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "cpu"])
@pytest.mark.parametrize(("most", "step", "batches"), [(7, 1, [7]), (3, 1, [2]), (2, 0, [2]), (1, 1, [1])])
def test_a_chunk_that_does_not_fit_is_made_in_smaller_batches(
    loaded, error: RuntimeError, most: int, step: int, batches: list[int]
):
    wanted = requests(loaded)
    whole = run(loaded, wanted, DRAWN, INTERVENTION)
    assert {row.batch_rows for row in whole.completions} == {14}
    with out_of_memory_above(loaded.model, most, error, step):
        made = run(loaded, wanted, DRAWN, INTERVENTION)
    assert [row.request for row in made.completions] == wanted
    assert sorted({row.batch_rows for row in made.completions}) == batches
    assert all(row.n_firings == 2 * row.n_decode_steps for row in made.completions)
    # Rows are independent: the same noise and, but for last bits, the same logits.
    assert tokens(made) == tokens(whole)
    again = run(loaded, wanted, DRAWN, INTERVENTION)
    assert {row.batch_rows for row in again.completions} == {14}  # the next chunk starts whole


def test_a_part_that_breaks_off_half_way_begins_anew(loaded):
    wanted = requests(loaded)
    whole = run(loaded, wanted, DRAWN, None)
    with out_of_memory_above(loaded.model, 4, OUT_OF_MEMORY[0], step=5):
        made = run(loaded, wanted, DRAWN, None)
    assert tokens(made) == tokens(whole)
    assert {row.batch_rows for row in made.completions} < {14, 7, 4, 2}


def test_another_runtime_error_is_not_taken_for_a_lack_of_memory(loaded):
    with (
        out_of_memory_above(loaded.model, 0, RuntimeError("shapes do not fit")),
        pytest.raises(RuntimeError, match="fit"),
    ):
        run(loaded, requests(loaded), DRAWN, None)


def test_progress_of_smaller_batches_is_that_of_the_chunk(loaded, monkeypatch):
    monkeypatch.setattr(generation, "_TELL_EVERY_SECONDS", 0.0)
    told: list[tuple[int, int]] = []
    wanted = requests(loaded)
    with out_of_memory_above(loaded.model, 7, OUT_OF_MEMORY[0]):
        batch = generate(
            loaded.model,
            wanted,
            DRAWN,
            None,
            stop_ids=loaded.stop_ids,
            pad_id=loaded.pad_id,
            on_step=lambda step, n_open: told.append((step, n_open)),
        )
    assert [step for step, _ in told] == list(range(1, batch.decode_steps + 1))
    assert all(0 <= n_open <= 14 for _, n_open in told)
    assert told[0][1] > 7  # those that have not begun are open too


@pytest.mark.parametrize("target", [(2, "mlp"), (-1, "attention")])
def test_a_component_that_does_not_exist_is_refused_and_leaves_no_hook(loaded, target):
    with pytest.raises(CheckpointError, match="layers 0 to 1"), scaled(loaded.model, [(0, "mlp"), target], 0.5):
        pass
    assert hooks_left(loaded.model) == 0


def test_hooks_are_removed_when_the_block_raises(loaded):
    def fail_inside() -> None:
        with scaled(loaded.model, [(0, "mlp")], 0.5):
            assert hooks_left(loaded.model) == 1
            raise RuntimeError("in the block")

    with pytest.raises(RuntimeError, match="in the block"):
        fail_inside()
    assert hooks_left(loaded.model) == 0


def test_a_component_that_does_not_fire_is_an_error(loaded, monkeypatch):
    mlp = loaded.model.get_decoder().layers[0].mlp
    # Calling forward directly goes past the hooks, as a fused block would.
    monkeypatch.setattr(type(mlp), "__call__", lambda self, hidden: self.forward(hidden))
    with pytest.raises(BacktrackingError, match="mlp layer 0 fired 0 times"):
        run(loaded, requests(loaded), DRAWN, INTERVENTION)


def hooks_left(model: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_checkpoints_load_from_sharded_files(tmp_path: Path, tiny_checkpoint: Path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    folder = tmp_path / "sharded"
    model.save_pretrained(folder, max_shard_size="20KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_checkpoint / name).read_bytes())
    assert len(list(folder.glob("*.safetensors"))) > 1
    document = experiment_document(folder, write_problems(tmp_path / "problems.jsonl"))
    sharded = load_model(write_experiment(tmp_path / "e.yaml", document), inspect(folder), "cpu")
    whole = model.state_dict()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in sharded.model.state_dict().items())
