"""Chunks that are taken up where they broke off: the same bytes, and nothing made twice."""

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from backtracking_assets.conditions import Intervention
from backtracking_assets.experiment_sections import Sampling
from backtracking_assets.models import chunk_state, decoding, generation, static_decoding
from backtracking_assets.models.checkpoint import inspect
from backtracking_assets.models.chunk_state import ChunkState, go_on_from
from backtracking_assets.models.decoding import Decoding
from backtracking_assets.models.generation import Batch, Request, generate
from backtracking_assets.models.interventions import Means, Target, applied
from backtracking_assets.models.loading import LoadedModel, load_model
from backtracking_assets.models.static_decoding import StaticDecoding
from backtracking_assets_tests.tiny import experiment_document, make_checkpoint, write_experiment, write_problems

DRAWN = Sampling(temperature=1.0, top_p=0.95, max_new_tokens=40, seed=5)
COMPONENTS: tuple[Target, ...] = ((0, "mlp"), (1, "attention"))
MEANS: Means = {target: torch.linspace(-1, 1, 32) * (1 + place) for place, target in enumerate(COMPONENTS)}
INTERVENTIONS: dict[str, Intervention | None] = {
    "none": None,
    "zero": Intervention(components=COMPONENTS, scale=0.0),
    "scaled": Intervention(components=COMPONENTS, scale=0.3),
    "towards the mean": Intervention(components=COMPONENTS, scale=0.4, means_digest="0" * 64),
    "trigger logits": Intervention(components=(), scale=0.25, trigger_ids=tuple(range(40, 60))),
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("loaded")
    checkpoint = make_checkpoint(folder / "checkpoint")
    problems = write_problems(folder / "problems.jsonl")
    experiment = write_experiment(folder / "e.yaml", experiment_document(checkpoint, problems))
    return load_model(experiment, inspect(checkpoint), "cpu")


def requests(loaded: LoadedModel, n: int = 6, samples: int = 2) -> list[Request]:
    prompts = [tuple(loaded.tokenizer.encode(f"Q: {'x' * (3 * i)} {i}\n")) for i in range(n)]
    return [Request(f"p{i}", s, prompt) for i, prompt in enumerate(prompts) for s in range(samples)]


def stop_ids(loaded: LoadedModel) -> frozenset[int]:
    """More of them than the model has, so that rows end all along."""
    return loaded.stop_ids | frozenset(range(100, 112))


def run(loaded: LoadedModel, intervention: Intervention | None, sampling: Sampling = DRAWN, **options: Any) -> Batch:
    return generate(
        loaded.model,
        requests(loaded),
        sampling,
        intervention,
        stop_ids=stop_ids(loaded),
        pad_id=loaded.pad_id,
        means=MEANS,
        **options,
    )


class StoppedError(Exception):
    pass


def state_after(
    loaded: LoadedModel, steps: int, intervention: Intervention | None, sampling: Sampling = DRAWN, **options: Any
) -> ChunkState:
    """The state of a chunk after so many decode steps, at which it breaks off."""
    kept: list[ChunkState] = []

    def keep(take: Callable[[], ChunkState]) -> None:
        state = take()
        if state.steps == steps:
            arrays = {name: array.copy() for name, array in state.arrays.items()}
            kept.append(ChunkState(dict(state.facts), arrays))
            raise StoppedError

    with pytest.raises(StoppedError):
        run(loaded, intervention, sampling, on_state=keep, **options)
    return kept[0]


@contextmanager
def counted_steps(monkeypatch: pytest.MonkeyPatch, counts: list[int]):
    """The decode steps of the block, one entry each: its rows."""
    step = decoding.decode_step

    def counted(model: PreTrainedModel, tokens: torch.Tensor, *arguments: Any) -> torch.Tensor:
        counts.append(len(tokens))
        return step(model, tokens, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode_step", counted)
        yield


@pytest.mark.parametrize("intervention", INTERVENTIONS.values(), ids=INTERVENTIONS)
@pytest.mark.parametrize("steps", [0, 31])
def test_a_chunk_goes_on_with_the_bytes_of_one_that_was_never_interrupted(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, steps: int, intervention: Intervention | None
) -> None:
    states: list[Mapping[str, np.ndarray]] = []
    whole = run(loaded, intervention, on_state=lambda take: states.append(_copied(take())))
    state = state_after(loaded, steps, intervention)
    counts: list[int] = []
    resumed: list[Mapping[str, np.ndarray]] = []
    with counted_steps(monkeypatch, counts):
        again = run(loaded, intervention, resume_from=state, on_state=lambda take: resumed.append(_copied(take())))
    assert again.completions == whole.completions
    assert again.decode_steps == whole.decode_steps
    assert len(counts) == whole.decode_steps - steps
    # Keys and values too, to the last bit, at every later step: so are all logits.
    assert len(resumed) == len(states) - steps
    for one, other in zip(resumed, states[steps:], strict=True):
        assert one.keys() == other.keys()
        assert [name for name in one if not np.array_equal(one[name], other[name])] == []


def _copied(state: ChunkState) -> dict[str, np.ndarray]:
    """The arrays, with zeros for the tokens of rows that are in the batch no more: they mean nothing."""
    arrays = {name: array.copy() for name, array in state.arrays.items()}
    left = np.ones(len(arrays["tokens"]), bool)
    left[arrays["row_of_slot"]] = False
    arrays["tokens"][left] = 0
    return arrays


def test_the_shape_of_the_check_above_has_rows_that_ended_and_rows_that_were_dropped(loaded: LoadedModel) -> None:
    state = state_after(loaded, 31, None)
    early = state_after(loaded, 7, None)
    assert len(state.arrays["row_of_slot"]) < len(early.arrays["row_of_slot"]) < len(requests(loaded))


def test_a_chunk_of_several_batches_keeps_those_that_are_done(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    intervention, rows = INTERVENTIONS["scaled"], 5
    whole = run(loaded, intervention, rows=rows)
    steps = whole.decode_steps * 2 // 3
    state = state_after(loaded, steps, intervention, rows=rows)
    assert state.facts["finished"] >= rows
    counts: list[int] = []
    with counted_steps(monkeypatch, counts):
        again = run(loaded, intervention, rows=rows, resume_from=state)
    assert again.completions == whole.completions
    assert {row.batch_rows for row in again.completions} == {5, 2}
    assert (again.decode_steps, len(counts)) == (whole.decode_steps, whole.decode_steps - steps)


def without_cache(state: ChunkState) -> ChunkState:
    """A state as a GPU gives it."""
    arrays = {name: array for name, array in state.arrays.items() if not name.startswith(("keys.", "values."))}
    return replace(state, arrays=arrays)


@pytest.mark.parametrize("intervention", INTERVENTIONS.values(), ids=INTERVENTIONS)
@pytest.mark.parametrize(("block", "most"), [(256, 2**27), (5, 3000)], ids=["at once", "in blocks"])
def test_keys_and_values_are_computed_anew_from_the_tokens(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, block: int, most: int, intervention: Intervention | None
) -> None:
    monkeypatch.setattr(chunk_state, "_BLOCK", block)
    monkeypatch.setattr(chunk_state, "_MOST_ELEMENTS", most)
    greedy = DRAWN.model_copy(update={"temperature": 0.0})
    state = state_after(loaded, 11, intervention, greedy)
    with torch.inference_mode(), applied(loaded.model, intervention, MEANS) as scaling:
        made = Decoding(loaded.model, requests(loaded), greedy, stop_ids=stop_ids(loaded), pad_id=loaded.pad_id)
        go_on_from(made, without_cache(state), scaling)
    longest = max(len(request.prompt_ids) for request in requests(loaded))
    seen = torch.arange(longest + 11)[None, :] >= made.padding[:, None]
    is_open = ~made.ended
    for layer, pair in enumerate(made.cache.written()):
        for name, tensor in zip(("keys", "values"), pair, strict=True):
            kept = torch.from_numpy(state.arrays[f"{name}.{layer}"])
            assert tensor.shape == kept.shape
            difference = (tensor - kept).abs().amax(dim=(1, 3))[seen & is_open[:, None]]
            assert difference.max() < 1e-4, (layer, name)
    whole = run(loaded, intervention, greedy)
    assert run(loaded, intervention, greedy, resume_from=without_cache(state)).completions == whole.completions


@pytest.mark.parametrize("intervention", [INTERVENTIONS["none"], INTERVENTIONS["towards the mean"]])
def test_decoding_on_fixed_buffers_goes_on_from_tokens_alone(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, intervention: Intervention | None
) -> None:
    """What a GPU does, run uncaptured: slots in another order, some of them dropped."""
    monkeypatch.setattr(static_decoding, "CAPTURED_ROWS", 3)
    monkeypatch.setattr(static_decoding, "CAPTURED_COLUMNS", 8)
    monkeypatch.setattr(static_decoding, "_MOST_UNSEEN", 4)
    monkeypatch.setattr(
        generation, "decoding_for", lambda *arguments, **named: StaticDecoding(*arguments, **named, capture=False)
    )
    whole = run(loaded, intervention)
    seen: list[int] = []
    run(loaded, intervention, on_state=lambda take: seen.append(take().steps))
    late = seen[2 * len(seen) // 3]
    state = without_cache(state_after(loaded, late, intervention))
    assert len(state.arrays["row_of_slot"]) < len(requests(loaded))
    assert run(loaded, intervention, resume_from=state).completions == whole.completions
    assert run(loaded, intervention, resume_from=state_after(loaded, seen[2], intervention)).completions == (
        whole.completions
    )


def test_without_the_intervention_the_cache_would_be_another_one(loaded: LoadedModel) -> None:
    """The check above sees whether generated positions are intervened on, and prompts are not."""
    intervention = INTERVENTIONS["scaled"]
    state = without_cache(state_after(loaded, 11, intervention))
    values: list[torch.Tensor] = []
    for acting in (intervention, None):
        with torch.inference_mode(), applied(loaded.model, acting, MEANS) as scaling:
            made = Decoding(loaded.model, requests(loaded), DRAWN, stop_ids=stop_ids(loaded), pad_id=loaded.pad_id)
            go_on_from(made, state, scaling)
            values.append(made.cache.written()[1][1].clone())
    prompt = made.prompt_ids.shape[1]
    assert torch.equal(values[0][:, :, :prompt], values[1][:, :, :prompt])
    assert (values[0] - values[1])[:, :, prompt:].abs().max() > 0.01


def test_a_row_that_broke_on_its_logits_is_kept_as_such(loaded: LoadedModel) -> None:
    head: Any = loaded.model.get_output_embeddings()
    passes = iter(range(1000))

    def spoil(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if next(passes) == 3:
            output = output.clone()
            output[4] = float("nan")
        return output

    handle = head.register_forward_hook(spoil)
    try:
        state = state_after(loaded, 6, None)
    finally:
        handle.remove()
    for kept in (state, without_cache(state)):
        again = run(loaded, None, resume_from=kept)
        broken = [row for row in again.completions if row.finish_reason == "non_finite"]
        assert [len(row.token_ids) for row in broken] == [3]


def test_bfloat16_keys_and_values_are_kept_as_their_bits(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", family="llama")
    document = experiment_document(checkpoint, write_problems(tmp_path / "problems.jsonl"))
    document["model"]["dtype"] = "bfloat16"
    half = load_model(write_experiment(tmp_path / "e.yaml", document), inspect(checkpoint), "cpu")
    state = state_after(half, 9, INTERVENTIONS["zero"])
    assert state.arrays["keys.0"].dtype == np.int16
    assert (
        run(half, INTERVENTIONS["zero"], resume_from=state).completions == run(half, INTERVENTIONS["zero"]).completions
    )
