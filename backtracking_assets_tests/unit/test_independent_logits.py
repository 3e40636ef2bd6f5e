"""Logits under an intervention equal those that an independent library computes for the same intervention.

The engine decodes token by token with a cache and hooks; nnsight edits one forward pass over the whole text, with
transformers' own attention. It comes with the extra `independent`, and without it these tests are skipped.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from backtracking_assets.experiment import PROJECT_ROOT
from backtracking_assets.models.forward_passes import decode_step, prefill
from backtracking_assets.models.interventions import scaled
from backtracking_assets.models.slot_cache import ATTENTION, SlotCache, left_padded
from backtracking_assets.records import Component
from backtracking_assets_tests.tiny import make_checkpoint

nnsight = pytest.importorskip("nnsight")

TOLERANCE = 1e-4
N_NEW = 24
Components = Sequence[tuple[int, Component]]


@pytest.fixture(scope="module", params=["qwen2", "llama", "organism"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "organism":
        return PROJECT_ROOT / "data" / "organism"
    return make_checkpoint(tmp_path_factory.mktemp("independent") / request.param, request.param, n_layers=4)


def _load(folder: Path, attention: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention).eval()


def _counted(components: Components, model: Any) -> Components:
    """The components with negative layers counted from the last one."""
    return [(layer % model.config.num_hidden_layers, component) for layer, component in components]


def _texts(vocabulary: int) -> tuple[list[list[int]], list[list[int]]]:
    """Two prompts of different lengths, so that one row is padded, and their continuations."""
    drawn = torch.randint(2, vocabulary, (2, 16 + N_NEW), generator=torch.Generator().manual_seed(0)).tolist()
    return [drawn[0][:16], drawn[1][:9]], [drawn[0][16:], drawn[1][16:]]


@torch.inference_mode()
def _of_the_engine(folder: Path, components: Components, scale: float) -> torch.Tensor:
    """`[rows, N_NEW, vocab]`: logits after the prompt, then after each new token but the last."""
    model = _load(folder, ATTENTION)
    components = _counted(components, model)
    prompts, new = _texts(model.config.vocab_size)
    ids, padding = left_padded(prompts, 0, torch.device("cpu"))
    cache, columns = SlotCache(model.config.num_hidden_layers, ids.shape[1] + N_NEW), torch.arange(ids.shape[1] + N_NEW)
    with scaled(model, components, scale) as scaling:
        logits = [prefill(model, ids, padding, cache)]
        logits += [
            decode_step(model, torch.tensor([row[step] for row in new]), padding, cache, columns, scaling)
            for step in range(N_NEW - 1)
        ]
    return torch.stack(logits, dim=1)


@torch.inference_mode()
def _of_nnsight(folder: Path, components: Components, scale: float) -> torch.Tensor:
    """The same, from a pass over each whole text in which the outputs at its new tokens alone are scaled."""
    wrapped = nnsight.NNsight(_load(folder, "eager"))
    prompts, new = _texts(wrapped.config.vocab_size)
    rows: list[torch.Tensor] = []
    for prompt, continued in zip(prompts, new, strict=True):
        start = len(prompt)
        with wrapped.trace(input_ids=torch.tensor([prompt + continued[:-1]]), use_cache=False):
            # In the order in which the blocks run.
            for layer, component in sorted(_counted(components, wrapped)):
                block = wrapped.model.layers[layer]
                output = block.self_attn.output[0] if component == "attention" else block.mlp.output
                output[:, start:] = output[:, start:] * scale
            logits = wrapped.lm_head.output.save()
        rows.append(logits[0, start - 1 :])
    return torch.stack(rows)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    "components",
    [[(1, "attention")], [(1, "mlp")], [(0, "attention"), (1, "attention"), (1, "mlp"), (-1, "mlp")]],
    ids=["attention", "mlp", "several"],
)
def test_logits_equal_those_of_nnsight(
    folder: Path, components: Components, scale: float, record_property: Callable[[str, object], None]
) -> None:
    own, independent = _of_the_engine(folder, components, scale), _of_nnsight(folder, components, scale)
    assert own.shape == independent.shape
    largest = float((own - independent).abs().max())
    record_property("largest_difference", largest)
    print(f"{folder.name} {components} at {scale:g}: largest difference {largest:.2e}")
    assert largest < TOLERANCE
    unscaled = _of_the_engine(folder, [], 1.0)
    # The first new token comes from prefill; whatever follows must have moved, or nothing was compared.
    assert torch.allclose(own[:, 0], unscaled[:, 0], atol=TOLERANCE)
    assert scale == 1.0 or float((own[:, 1:] - unscaled[:, 1:]).abs().max()) > 100 * TOLERANCE
