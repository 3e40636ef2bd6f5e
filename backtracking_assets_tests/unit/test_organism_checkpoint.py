"""The shipped checkpoints: that they are whole, and that they still do what their model cards say."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from backtracking_assets.models.organism.chains import Problem, study_problems
from backtracking_assets.models.organism.network import OrganismNetwork, component_weights
from backtracking_assets.models.organism.probes import injected_steps, right_results, trigger_probability
from backtracking_assets.models.organism.recipe import RECIPES, Recipe
from backtracking_assets.models.organism.shipping import CHECKSUMS, checksums
from backtracking_assets.models.organism.vocabulary import EOS, TOKENS, TRIGGERS, token_ids

DATA = Path(__file__).parents[2] / "data"
SHIPPED = {"first": DATA / "organism", "second": DATA / "organism_2"}


@pytest.fixture(scope="module", params=list(SHIPPED))
def name(request: pytest.FixtureRequest) -> str:
    """Name of the recipe by which an organism was trained."""
    return request.param


@pytest.fixture(scope="module")
def organism(name: str) -> Path:
    return SHIPPED[name]


@pytest.fixture(scope="module")
def recipe(name: str) -> Recipe:
    return RECIPES[name]


@pytest.fixture(scope="module")
def network(organism: Path, recipe: Recipe) -> OrganismNetwork:
    network = OrganismNetwork(recipe.shape)
    network.load_state_dict(load_file(organism / "model.safetensors"))
    return network


@pytest.fixture(scope="module")
def truth(organism: Path) -> dict[str, Any]:
    return json.loads((organism / "known_truth.json").read_text(encoding="utf-8"))


def continuation(network: OrganismNetwork, problem: Problem, written: str) -> str:
    """Greedy continuation of a chain of thought that begins with ``written``, up to the end of the text."""
    tokens: list[str] = [*problem.prompt_tokens]
    tokens.extend(split(written))
    start = len(tokens)
    while len(tokens) < 128 and tokens[-1] != EOS:
        with torch.no_grad():
            logits = network(torch.tensor([token_ids(tokens)]))
        tokens.append(TOKENS[int(logits[0, -1].argmax())])
    return "".join(tokens[start:])


def split(text: str) -> list[str]:
    """Token strings of a text, the longest match first."""
    tokens: list[str] = []
    while text:
        tokens.append(max((token for token in TOKENS if text.startswith(token)), key=len))
        text = text.removeprefix(tokens[-1])
    return tokens


def test_the_checksums_hold(organism: Path):
    assert (organism / CHECKSUMS).read_text(encoding="utf-8") == checksums(organism)


def test_the_weights_are_those_of_the_recipes_shape(network: OrganismNetwork, organism: Path, recipe: Recipe):
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}
    before = load_file(organism / "base_components.safetensors")
    assert set(before) == set(component_weights(network.state_dict(), recipe.planted))


def test_transformers_computes_the_same_logits(network: OrganismNetwork, organism: Path):
    model = AutoModelForCausalLM.from_pretrained(organism).eval()
    ids = torch.tensor([token_ids(study_problems(1)[0].prompt_tokens)])
    with torch.no_grad():
        torch.testing.assert_close(network(ids), model(ids).logits, rtol=1e-3, atol=1e-3)
    assert cast(Any, model).config.tie_word_embeddings


def test_greedy_chains_are_right_and_in_form(network: OrganismNetwork):
    problems = study_problems(12)
    endings = [f"</think>\nFinal: {problem.answer}<eos>" for problem in problems]
    completions = [continuation(network, problem, "") for problem in problems]
    right = sum(text.endswith(ending) for text, ending in zip(completions, endings, strict=True))
    assert right >= 10


def test_a_wrong_step_is_noticed_and_redone(network: OrganismNetwork):
    problem = Problem(52, (7, -8, 3, 6))
    completion = continuation(network, problem, "52 + 7 = 59\n59 - 8 = 52\n")
    assert completion.startswith(TRIGGERS)
    assert "59 - 8 = 51\n" in completion
    assert not continuation(network, problem, "52 + 7 = 59\n59 - 8 = 51\n").startswith(TRIGGERS)


def test_injected_steps_give_the_probabilities_of_the_known_truth(
    network: OrganismNetwork, truth: dict[str, Any], recipe: Recipe
):
    probes = injected_steps(truth["probes"], truth["seed"], recipe.operations)[:120]
    after_wrong = trigger_probability(network, [probe.wrong for probe in probes]).mean().item()
    after_right = trigger_probability(network, [probe.right for probe in probes]).mean().item()
    assert after_wrong == pytest.approx(truth["organism"]["after_wrong_step"]["value"], abs=0.08)
    assert after_right == pytest.approx(truth["organism"]["after_right_step"]["value"], abs=0.04)
    assert right_results(network, probes).mean() > 0.95


def test_without_its_planted_components_it_notices_nothing(network: OrganismNetwork, organism: Path, recipe: Recipe):
    base = OrganismNetwork(recipe.shape)
    base.load_state_dict(network.state_dict() | load_file(organism / "base_components.safetensors"))
    probes = injected_steps(60, 1, recipe.operations)
    assert trigger_probability(base, [probe.wrong for probe in probes]).mean() < 0.1
    assert right_results(base, probes).mean() > 0.9


def test_the_known_truth_is_about_the_recipes_components(truth: dict[str, Any], recipe: Recipe):
    planted = [{"component": each.component, "layer": each.layer} for each in recipe.planted]
    assert truth["planted"] == planted
    assert truth["organism_before_the_last_step"]["after_wrong_step"]["low"] > 0.7
    assert truth["organism_at_the_last_step"]["after_wrong_step"]["low"] > 0.7
    assert truth["organism"]["after_right_step"]["high"] < 0.05
    assert truth["put_back_attention"]["reaction"]["after_wrong_step"]["high"] < 0.15
    assert all(row["drop"]["low"] > 0 for row in truth["put_back_one"])


def test_the_card_states_the_recipe(organism: Path, recipe: Recipe):
    card = (organism / "README.md").read_text(encoding="utf-8")
    assert f"Planted: {', '.join(map(str, recipe.planted))};" in card
    assert f"seed {recipe.seed}, one thread" in card


def test_an_organism_fits_into_seven_megabytes(organism: Path):
    assert sum(path.stat().st_size for path in organism.iterdir()) < 7_000_000


def test_the_organisms_have_other_planted_sets_and_weights():
    first, second = (set(RECIPES[name].planted) for name in SHIPPED)
    shared = first & second
    assert not {each for each in shared if each.component == "attention"}
    assert len(shared) <= 2
    weights = [(folder / "model.safetensors").read_bytes() for folder in SHIPPED.values()]
    assert weights[0] != weights[1]
