"""The component scan and the logit lens against a loop of whole passes with hooks written by hand."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from backtracking_assets.errors import BacktrackingError, CheckpointError
from backtracking_assets.models.checkpoint import inspect
from backtracking_assets.models.component_means import component_means
from backtracking_assets.models.component_scan import (
    Target,
    Variant,
    all_variants,
    figures,
    ordinary_token,
    scan_prefix,
)
from backtracking_assets.models.loading import LoadedModel, load_model
from backtracking_assets.models.logit_lens import read_lens
from backtracking_assets.scan_records import EMBEDDING, MODES
from backtracking_assets_tests.tiny import experiment_document, make_checkpoint, write_experiment, write_problems

N_LAYERS = 3
VARIANTS = all_variants(N_LAYERS, MODES)
TRIGGERS = (7, 70, 200)


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("scan") / request.param, request.param, N_LAYERS, seed=3)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> LoadedModel:
    home = tmp_path_factory.mktemp("experiment")
    document = experiment_document(folder, write_problems(home / "problems.jsonl"))
    document["model"]["n_layers"] = N_LAYERS
    return load_model(write_experiment(home / "e.yaml", document), inspect(folder), "cpu")


@pytest.fixture(scope="module")
def plain(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def ids(loaded: LoadedModel) -> list[int]:
    return loaded.tokenizer.encode("Q: 12 + 7\n12 + 7 = 18\nno, ")


@pytest.fixture(scope="module")
def means(loaded: LoadedModel) -> dict[Target, torch.Tensor]:
    texts = [("Q: 1\n", "1 + 1 = 2"), ("Q: 22\n", "x"), ("Q: a\n", "Wait, it is three")]
    encode = loaded.tokenizer.encode
    return component_means(loaded.model, [(encode(prompt), encode(text)) for prompt, text in texts])


def module_of(model: Any, target: Target) -> Any:
    layer = model.get_decoder().layers[target[0]]
    return layer.mlp if target[1] == "mlp" else layer.self_attn


def by_hand(model: PreTrainedModel, ids: Sequence[int], variant: Variant | None, means: Any) -> torch.Tensor:
    """Logits of one whole pass over the prefix, with one component moved at its last position."""
    handles = []
    if variant is not None:

        def hook(module: Any, inputs: Any, output: Any) -> Any:
            whole = (output[0] if isinstance(output, tuple) else output).clone()
            to = means[variant.target] if variant.mode == "mean" else torch.zeros(whole.shape[-1])
            whole[:, -1] = variant.scale * whole[:, -1] + (1 - variant.scale) * to.float()
            return (whole, *output[1:]) if isinstance(output, tuple) else whole

        handles.append(module_of(model, variant.target).register_forward_hook(hook))
    with torch.no_grad():
        logits = model(torch.tensor([list(ids)]), use_cache=False).logits[0, -1].double()
    for handle in handles:
        handle.remove()
    return logits


@pytest.mark.parametrize("rows_a_pass", [100, 5, 1])
def test_every_row_equals_a_whole_pass_with_one_component_moved(
    loaded: LoadedModel, plain: PreTrainedModel, ids: list[int], means: Any, rows_a_pass: int
) -> None:
    vocabulary = plain.config.vocab_size
    parts = list(scan_prefix(loaded.model, ids, VARIANTS, means, most_logits=(rows_a_pass + 1) * vocabulary))
    assert [variant for part in parts for variant in part.variants] == VARIANTS
    assert {len(part.variants) for part in parts} == {min(rows_a_pass, len(VARIANTS))} | (
        {len(VARIANTS) % rows_a_pass} - {0} if rows_a_pass < len(VARIANTS) else set()
    )
    unscaled = by_hand(plain, ids, None, means)
    changes = []
    for part in parts:
        assert (part.unscaled - unscaled).abs().max() < 1e-4
        assert (part.alone - unscaled).abs().max() < 1e-4
        assert set(part.firings) == {1}
        for variant, row in zip(part.variants, part.scaled, strict=True):
            expected = by_hand(plain, ids, variant, means)
            assert (row - expected).abs().max() < 1e-4, variant
            changes.append(float((expected - unscaled).abs().max()))
    assert min(changes) > 0.05  # far more than the tolerance: each component matters


def test_a_scale_between_moves_between(loaded: LoadedModel, plain: PreTrainedModel, ids: list[int], means: Any) -> None:
    wanted = [Variant(1, "attention", "mean", 0.25), Variant(2, "mlp", "zero", 0.5), Variant(0, "mlp", "zero", 1.0)]
    (part,) = scan_prefix(loaded.model, ids, wanted, means)
    for variant, row in zip(wanted, part.scaled, strict=True):
        assert (row - by_hand(plain, ids, variant, means)).abs().max() < 1e-4
    assert torch.equal(part.scaled[2], part.unscaled)


def test_no_hook_and_no_trace_is_left(loaded: LoadedModel, ids: list[int], means: Any) -> None:
    first = [part.scaled for part in scan_prefix(loaded.model, ids, VARIANTS, means)]
    again = [part.scaled for part in scan_prefix(loaded.model, ids, VARIANTS, means)]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    with pytest.raises(CheckpointError, match="layer 9 does not exist"):
        list(scan_prefix(loaded.model, ids, [*VARIANTS, Variant(9, "mlp", "zero")], means))
    assert not any(module._forward_hooks for module in loaded.model.modules())


def test_a_block_that_runs_twice_is_refused(loaded: LoadedModel, ids: list[int], means: Any) -> None:
    base: Any = loaded.model.get_decoder()
    layer = base.layers[1]

    def run_again(module: Any, inputs: Any, output: Any) -> None:
        layer.mlp(output[0] if isinstance(output, tuple) else output)

    handle = layer.register_forward_hook(run_again)
    try:
        assert list(scan_prefix(loaded.model, ids, [Variant(0, "mlp", "zero")], means))  # another one: it fires once
        with pytest.raises(BacktrackingError, match=r"rows were changed \[2\] times instead of once"):
            list(scan_prefix(loaded.model, ids, [Variant(1, "mlp", "zero")], means))
    finally:
        handle.remove()


def test_a_prefix_of_one_token_is_refused(loaded: LoadedModel, means: Any) -> None:
    with pytest.raises(BacktrackingError, match="prefix of one token"):
        list(scan_prefix(loaded.model, [5], VARIANTS, means))


def test_means_are_over_decode_positions_alone(loaded: LoadedModel, plain: PreTrainedModel) -> None:
    encode = loaded.tokenizer.encode
    texts = [("Q: 1\n", "1 + 1 = 2"), ("Q: 22\n", "x"), ("Q: a\n", "Wait, it is three")]
    pairs = [(encode(prompt), encode(text)) for prompt, text in texts]
    found = component_means(loaded.model, pairs)
    for target, mean in found.items():
        seen: list[torch.Tensor] = []

        def record(module: Any, inputs: Any, output: Any, seen: list[torch.Tensor] = seen) -> None:
            seen.append((output[0] if isinstance(output, tuple) else output)[0])

        handle = module_of(plain, target).register_forward_hook(record)
        with torch.no_grad():
            for prompt, text in pairs:
                plain(torch.tensor([[*prompt, *text]]), use_cache=False)
        handle.remove()
        # Outputs at positions of the completion that have a token of the completion after them.
        rows = torch.cat([out[len(p) : len(p) + len(t) - 1] for out, (p, t) in zip(seen, pairs, strict=True)])
        assert len(rows) == 8 + 0 + 16
        assert (mean - rows.double().mean(dim=0)).abs().max() < 1e-5
    with pytest.raises(BacktrackingError, match="No completion has a decode position"):
        component_means(loaded.model, [(encode("Q"), encode("x"))])


def test_figures_by_hand_and_the_chain_rule_of_the_divergence() -> None:
    before = torch.tensor([1.0, 0.0, -1.0, 0.5, 2.0], dtype=torch.float64)
    after = torch.tensor([[0.2, 1.0, -1.0, 0.0, 0.3], [1.0, 0.0, -1.0, 0.5, 2.0]], dtype=torch.float64)
    triggers = (0, 4)
    assert ordinary_token(before, triggers) == 3
    found, same = figures(after, before, 0, 3, triggers)
    p, q = (torch.softmax(logits, -1).tolist() for logits in (before, after[0]))
    trigger = q[0] + q[4]
    assert found.onset_logit == 0.2
    assert found.onset_log_probability == pytest.approx(math.log(q[0]))
    assert found.onset_margin == pytest.approx(0.2 - 1.0)
    assert found.logit_difference == pytest.approx(0.2 - 0.0)
    assert found.trigger_log_probability == pytest.approx(math.log(trigger))
    assert found.trigger_log_odds == pytest.approx(math.log(trigger / (1 - trigger)))
    assert found.ordinary_log_probability == pytest.approx(math.log(q[3]))
    assert found.ordinary_log_odds == pytest.approx(math.log(q[3] / (1 - q[3])))
    assert found.kl == pytest.approx(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    p_trigger = p[0] + p[4]
    within = sum(p[i] / p_trigger * math.log(p[i] / p_trigger / (q[i] / trigger)) for i in triggers)
    assert found.kl == pytest.approx(
        found.kl_trigger + p_trigger * within + (1 - p_trigger) * found.kl_ordinary
    )  # chain rule of the divergence
    assert (same.kl, same.kl_trigger, same.kl_ordinary) == (0, 0, 0)


def test_the_lens_reads_every_layer_and_ends_in_the_models_logits(
    loaded: LoadedModel, plain: PreTrainedModel, ids: list[int]
) -> None:
    lens = read_lens(loaded.model, ids, 40)
    assert [reading.layer for reading in lens.readings] == [EMBEDDING, *range(N_LAYERS)]
    with torch.no_grad():
        output = plain(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    base: Any = plain.get_decoder()
    unembed: Any = plain.get_output_embeddings()
    for reading, stream in zip(lens.readings, output.hidden_states, strict=True):
        # transformers gives the last layer's stream behind the final norm.
        normed = stream[0, -1] if reading.layer == N_LAYERS - 1 else base.norm(stream[0, -1])
        logits = unembed(normed).detach().double()
        assert reading.logit == pytest.approx(float(logits[40]), abs=1e-4)
        assert reading.log_probability == pytest.approx(float(torch.log_softmax(logits, -1)[40]), abs=1e-4)
        assert reading.rank == 1 + int((logits > logits[40]).sum())
    assert lens.readings[-1].logit == pytest.approx(float(output.logits[0, -1, 40]), abs=1e-4)
    assert lens.ends_in_the_models_logits
    assert 0 < lens.tolerance < 1e-2


def test_a_lens_that_does_not_end_in_the_models_logits_says_so(loaded: LoadedModel, ids: list[int]) -> None:
    """As of a model that does something between the last layer and its logits, such as capping them."""
    head: Any = loaded.model.get_output_embeddings()
    n_calls = 0

    def shifted(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal n_calls
        n_calls += 1
        return output * 0.9 if n_calls == 2 else output  # prefill is the first call, the decode step the second

    handle = head.register_forward_hook(shifted)
    try:
        assert not read_lens(loaded.model, ids, 40).ends_in_the_models_logits
    finally:
        handle.remove()
