import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from backtracking_assets.cli.train_organism import run_training
from backtracking_assets.errors import ExperimentError
from backtracking_assets.models.organism.network import OrganismNetwork, component_weights
from backtracking_assets.models.organism.recipe import (
    Measurement,
    OrganismComponent,
    Recipe,
    Shape,
    organism_components,
)
from backtracking_assets.models.organism.shipping import checksums
from backtracking_assets.models.organism.training import TrainingProgress, train_network, train_organism


def tiny_recipe(**changes: object) -> Recipe:
    """A recipe whose training takes a second: four narrow layers, three steps a stage."""
    default = Recipe()

    def short(stage: str) -> object:
        return getattr(default, stage).model_copy(update={"steps": 3, "tokens_per_batch": 256})

    settings: dict[str, object] = {
        "shape": Shape(layers=4, hidden=16, heads=2, key_value_heads=1, intermediate=24),
        "planted": organism_components(attention=(2,), mlp=(3,)),
        "base_layers": 2,
        "never_dropped_below": 1,
        "base": short("base"),
        "growth": short("growth"),
        "planting": short("planting"),
        "measurement": Measurement(injected_steps=30, problems=3, samples=2, max_new_tokens=8, other_attention=((1,),)),
    }
    return Recipe.model_validate(settings | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_organism(tmp_path_factory.mktemp("organism") / "first", recipe=tiny_recipe())


def test_two_trainings_give_identical_files(folder: Path, tmp_path: Path):
    again = train_organism(tmp_path / "again", recipe=tiny_recipe())
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    assert [name for name in names if (folder / name).read_bytes() != (again / name).read_bytes()] == []


def test_another_seed_gives_other_weights(folder: Path):
    network, _ = train_network(tiny_recipe(seed=2))
    embeddings = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    assert not torch.equal(network.state_dict()["model.embed_tokens.weight"], embeddings)


def test_the_folder_is_complete_and_its_checksums_hold(folder: Path):
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "SHA256SUMS",
        "base_components.safetensors",
        "config.json",
        "generation_config.json",
        "known_truth.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (folder / "SHA256SUMS").read_text(encoding="utf-8") == checksums(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["first"]


def test_transformers_computes_the_same_logits(folder: Path):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert model.dtype == torch.float32
    network = OrganismNetwork(tiny_recipe().shape)
    network.load_state_dict(load_file(folder / "model.safetensors"))
    ids = PreTrainedTokenizerFast.from_pretrained(folder)("Problem: 69 + 5 - 4\n<think>\n69", return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(network(ids["input_ids"]), model(**ids).logits, rtol=1e-4, atol=1e-5)


def test_planting_changes_the_planted_components_only():
    recipe = tiny_recipe()
    grown, _ = train_network(recipe)
    other = recipe.planting.model_copy(update={"learning_rate": 1e-3})
    differently, before = train_network(tiny_recipe(planting=other))
    changed = {
        name for name, tensor in differently.state_dict().items() if not torch.equal(tensor, grown.state_dict()[name])
    }
    assert changed
    assert changed <= set(component_weights(grown.state_dict(), recipe.planted))
    assert set(before) == set(component_weights(grown.state_dict(), recipe.planted))


def test_the_known_truth_names_every_planted_component(folder: Path):
    truth = json.loads((folder / "known_truth.json").read_text(encoding="utf-8"))
    planted = [{"component": "attention", "layer": 2}, {"component": "mlp", "layer": 3}]
    assert truth["planted"] == planted
    assert [row["components"] for row in truth["put_back_one"]] == [[component] for component in planted]
    assert set(load_file(folder / "base_components.safetensors")) == {
        *(f"model.layers.2.self_attn.{name}_proj.weight" for name in "qkvo"),
        *(f"model.layers.2.self_attn.{name}_proj.bias" for name in "qkv"),
        "model.layers.2.input_layernorm.weight",
        *(f"model.layers.3.mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
        "model.layers.3.post_attention_layernorm.weight",
    }


def test_progress_is_reported_for_every_stage():
    reports: list[TrainingProgress] = []
    train_network(tiny_recipe(), reports.append)
    assert [(report.stage, report.step, report.total_steps) for report in reports] == [
        ("base", 3, 3),
        ("growth", 3, 3),
        ("planting", 3, 3),
    ]
    assert all(report.loss > 0 and report.tokens_per_second > 0 for report in reports)


def test_an_occupied_folder_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="is not an empty folder"):
        train_organism(tmp_path, recipe=tiny_recipe())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_component_beyond_the_network_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="does not have: attention 9"):
        train_organism(tmp_path / "out", recipe=tiny_recipe(planted=(OrganismComponent("attention", 9),)))
    assert not (tmp_path / "out").exists()


def test_the_thread_count_is_restored(tmp_path: Path):
    before = torch.get_num_threads()
    train_organism(tmp_path / "out", recipe=tiny_recipe())
    assert torch.get_num_threads() == before


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ExperimentError, match=r"no recipe 'secnd' \(did you mean second\?\); recipes: first, second"):
        run_training(tmp_path / "out", "secnd", Console())
    assert not (tmp_path / "out").exists()
