"""Experiment files: what ships loads, what is wrong is refused in one sentence that names the place."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from backtracking_assets.conditions import Condition, canonical_intervention
from backtracking_assets.errors import ExperimentError
from backtracking_assets.experiment_file import EXPERIMENTS_DIR, experiment_names, load_experiment
from backtracking_assets.layer_subsets import LayerSubset, Subset
from backtracking_assets.records import Cell
from backtracking_assets_tests.tiny import experiment_document, write_experiment

DOCUMENT = experiment_document(Path("checkpoint"), Path("problems.jsonl"))


def continued(**changes: Any) -> dict[str, Any]:
    """A section `continuation`."""
    return {"seed": 1, "cells": [{"layer_subsets": ["attn_1"], "scales": [0.0]}], **changes}


def phased(**changes: Any) -> dict[str, Any]:
    """A section `phase1`."""
    return {"count": 5, "samples": 2, "compare": "attn_1", **changes}


def changed(place: str, value: Any) -> dict[str, Any]:
    """The document with one value replaced; REMOVED takes its key out."""
    document = copy.deepcopy(DOCUMENT)
    *steps, last = place.split(".")
    target: Any = document
    for step in steps:
        target = target[int(step)] if isinstance(target, list) else target[step]
    target[int(last) if isinstance(target, list) else last] = value
    return document


def test_shipped_experiments_load_and_name_their_files():
    assert experiment_names() == ("deepseek_r1_distill_qwen_1_5b", "organism")
    for name in experiment_names():
        assert load_experiment(name).name == name


def test_the_organism_plans_33_cells_of_480():
    organism = load_experiment("organism")
    assert len(organism.planned_cells()) == 5 * 6 + 3 + 2 + 5
    assert organism.completions_per_cell == 480


def test_the_real_experiment_has_the_values_of_the_reference_study():
    real = load_experiment("deepseek_r1_distill_qwen_1_5b")
    assert (real.sampling.temperature, real.sampling.top_p, real.sampling.seed) == (0.7, 0.95, 42)
    assert (real.problems.count, real.problems.samples) == (120, 4)
    assert listed(real.layer_subsets["attn_no_early"]).attention == (15, 17, 19, 27)
    assert listed(real.layer_subsets["mlp_late_cluster"]).mlp == (19, 20, 22, 23, 24, 27)
    assert len(listed(real.layer_subsets["phase1_full"]).components()) == 12
    assert real.scales == (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
    assert real.prompting.variant == "baseline_think_newline"
    assert len(real.prompting.variants) == 3
    assert set(real.prompting.assistant_prefix) == set(real.prompting.variants)
    assert not any("<think>" in text.splitlines()[-1] for text in real.prompting.variants.values())


def listed(subset: Subset) -> LayerSubset:
    assert isinstance(subset, LayerSubset)
    return subset


def test_random_controls_match_their_subset_and_avoid_the_excluded():
    organism = load_experiment("organism")
    subsets = organism.all_subsets()
    excluded = set(listed(organism.layer_subsets["phase1_full"]).components())
    for draw in (1, 2, 3):
        control = listed(subsets[f"random_{draw}_of_attn_no_early"])
        assert len(control.attention) == 4
        assert not control.mlp
        assert not excluded.intersection(control.components())
        assert organism.control_of(f"random_{draw}_of_attn_no_early") == "attn_no_early"
    assert organism.control_of("attn_no_early") is None


def test_more_draws_keep_the_earlier_ones(tmp_path: Path):
    few = load_experiment("organism").all_subsets()
    document = yaml.safe_load((EXPERIMENTS_DIR / "organism.yaml").read_text())
    document["name"] = "another"
    document["controls"]["random"][0]["draws"] = 9
    many = write_experiment(tmp_path / "o.yaml", document).all_subsets()
    assert all(many[name] == subset for name, subset in few.items())
    assert len(many) == len(few) + 6


BAD = [
    ("modell", {}, "modell: unknown key (did you mean model?)"),
    ("sampling.top_k", 5, "sampling.top_k: unknown key (did you mean top_p"),
    ("sampling.top_p", 0, "sampling.top_p: Input should be greater than 0 (it is 0)"),
    ("sampling.temperature", "hot", "sampling.temperature: Input should be a valid number"),
    ("sampling.temperature", -1, "sampling.temperature: Input should be greater than or equal to 0"),
    ("sampling.max_new_tokens", 0, "sampling.max_new_tokens"),
    ("scales", [0.0, float("nan"), 1.0], "scales.1: Input should be a finite number"),
    ("scales", [0.0, float("inf"), 1.0], "scales.1: Input should be a finite number"),
    ("scales", [0.0, 0.0, 1.0], "scales: a scale is listed twice"),
    ("scales", [0.0, 0.5], "scales: 1.0 is missing"),
    ("scales", [-1.0, 1.0], "scales: a scale below 0"),
    ("scales", [], "scales: Tuple should have at least 1 item"),
    ("phase1", phased(count=2), "phase1.count: it is 2 and problems.count is 3; the sweep's problems are the first"),
    ("phase1", phased(samples=0), "phase1.samples: Input should be greater than or equal to 1"),
    ("phase1", phased(compare="atn_1"), "phase1.compare: 'atn_1' is not a targeted layer subset (did you mean attn_1"),
    ("phase1", phased(compare="random_1_of_attn_1"), "phase1.compare: 'random_1_of_attn_1' is not a targeted"),
    ("phase1", phased(problems=4), "phase1.problems: unknown key"),
    ("layer_subsets.attn_1", {"attention": [2]}, "layer_subsets.attn_1: attention layer 2 does not exist"),
    ("layer_subsets.attn_1", {"attention": [-1]}, "layer_subsets.attn_1: attention layer -1 does not exist"),
    ("layer_subsets.attn_1", {}, "layer_subsets.attn_1: it names no layer"),
    ("layer_subsets.attn_1", {"attention": [1, 1]}, "layer_subsets.attn_1: attention names layer 1 twice"),
    ("layer_subsets.copy", {"attention": [1]}, "layer_subsets: attn_1 and copy name the same components"),
    ("layer_subsets.random_x", {"attention": [0, 1]}, "layer_subsets.random_x: targeted, random"),
    ("layer_subsets.Big", {"mlp": [0, 1]}, "layer_subsets.Big"),
    ("plan", [{"layer_subsets": ["attn_2"]}], "plan: 'attn_2' is not a layer subset (did you mean attn_1?)"),
    ("plan", [{"layer_subsets": ["attn_1"], "scales": [0.5]}], "plan: scale 0.5 is not among scales"),
    ("plan", [], "plan: Tuple should have at least 1 item"),
    ("controls.random.0.of", "attn_9", "controls.random: 'attn_9' is not a layer subset (did you mean attn_1?)"),
    ("controls.random.0.outside", ["both_0"], "controls.random of attn_1: 1 attention layers are wanted and 0 lie"),
    ("prompting.variant", "other", "prompting: variant 'other' is not among variants: plain"),
    ("prompting.variants", {"plain": "no place"}, "prompting: variant 'plain' has no {question} in its text"),
    ("prompting.assistant_prefix", {"plane": ""}, "'plane' is not among variants (did you mean plain?)"),
    ("prompting.assistant_prefix", {"plain": ""}, "prompting: assistant_prefix needs chat_template: true"),
    ("prompting.system", "You are helpful.", "prompting: system needs chat_template: true"),
    ("model.path", None, "model: give exactly one of path and hub_id"),
    ("model.hub_id", "some/model", "model: give exactly one of path and hub_id"),
    ("model.device", "gpu", "model.device"),
    ("problems.count", 0, "problems.count: Input should be greater than or equal to 1"),
    ("detection.strict", [], "detection.strict"),
    ("detection.strict", ["Wait", "wait"], "detection: trigger 'wait' is listed twice"),
    ("detection.strict", [" Wait"], "detection.strict: trigger ' Wait' is empty or has spaces around it"),
    ("name", "Not a name", "name: String should match pattern"),
    ("name", "organism", "name: 'organism' is the name of an experiment that ships"),
    ("problems.count", "3", "problems.count: Input should be a valid integer"),
    ("scales", [True, 0.0], "scales.0: Input should be a valid number"),
    ("statistics.seed", -1, "statistics.seed: Input should be greater than or equal to 0"),
    ("controls.random", [{"of": "attn_1", "draws": 1, "seed": s} for s in (1, 2)], "attn_1 is drawn for twice"),
    ("continuation", continued(event=3), "continuation.event: unknown key (did you mean events?)"),
    ("continuation", continued(events=0), "continuation.events: Input should be greater than or equal to 1"),
    ("continuation", continued(cells=[]), "continuation.cells: Tuple should have at least 1 item"),
    ("continuation", {"seed": 1}, "continuation.cells: Field required"),
    ("continuation", continued(cells=[{"layer_subsets": ["attn_1"]}]), "continuation.cells.0.scales: Field required"),
    (
        "continuation",
        continued(cells=[{"layer_subsets": ["attn_2"], "scales": [0.0]}]),
        "continuation.cells: 'attn_2' is not a layer subset (did you mean attn_1?)",
    ),
    (
        "continuation",
        continued(cells=[{"layer_subsets": ["attn_1"], "scales": [0.0, 1.0]}]),
        "continuation.cells.0.scales: 1.0 is the unscaled reference, which is always computed; leave it out",
    ),
    (
        "continuation",
        continued(cells=[{"layer_subsets": ["attn_1"], "scales": [-0.5]}]),
        "continuation.cells.0.scales: a scale below 0 would flip",
    ),
    ("controls.random.0.draws", 2, "controls.random of attn_1: no 2 different draws"),
]


@pytest.mark.parametrize(("place", "value", "message"), BAD, ids=[f"{place}={value}" for place, value, _ in BAD])
def test_bad_values_are_refused_with_their_place(tmp_path: Path, place: str, value: Any, message: str):
    with pytest.raises(ExperimentError) as refused:
        write_experiment(tmp_path / "bad.yaml", changed(place, value))
    said = str(refused.value)
    assert message in said
    assert str(tmp_path / "bad.yaml") in said
    assert "\n" not in said


def test_phase_1_needs_a_planned_cell_to_compare(tmp_path: Path):
    document = changed("plan", [{"layer_subsets": ["attn_1"], "scales": [1.0]}])
    with pytest.raises(ExperimentError, match=r"phase1\.compare: the plan scales 'attn_1' nowhere"):
        write_experiment(tmp_path / "bad.yaml", {**document, "phase1": phased()})


def test_phase_1_compares_the_baseline_a_subset_and_its_controls_at_the_lowest_planned_scale(tmp_path: Path):
    compared = write_experiment(tmp_path / "tiny.yaml", changed("phase1", phased())).compared_cells()
    assert compared == (Cell("attn_1", 1.0), Cell("attn_1", 0.0), Cell("random_1_of_attn_1", 0.0))
    both = write_experiment(tmp_path / "tiny.yaml", changed("phase1", phased(compare="both_0"))).compared_cells()
    assert both == (Cell("both_0", 1.0), Cell("both_0", 0.0))
    assert write_experiment(tmp_path / "tiny.yaml", DOCUMENT).compared_cells() == ()


def test_a_variants_experiment_differs_in_variant_problems_and_samples_alone(tmp_path: Path):
    document = {**changed("prompting.variants", {"plain": "{question}", "other": "{question}="}), "phase1": phased()}
    experiment = write_experiment(tmp_path / "tiny.yaml", document)
    other = experiment.for_variant("other")
    assert (other.prompting.variant, other.problems.count, other.problems.samples) == ("other", 5, 2)
    assert (other.source, other.outputs_dir()) == (experiment.source, experiment.outputs_dir())
    same = {name for name in type(other).model_fields if getattr(other, name) == getattr(experiment, name)}
    assert set(type(other).model_fields) - same == {"prompting", "problems"}
    assert experiment.prompting.variant == "plain"
    with pytest.raises(
        ExperimentError, match=r"no prompt variant 'oter' \(did you mean other\?\); variants: plain, other"
    ):
        experiment.for_variant("oter")


def test_all_errors_are_named_at_once(tmp_path: Path):
    document = changed("sampling.top_p", 0)
    document["problems"]["count"] = 0
    with pytest.raises(ExperimentError, match=r"problems\.count.*sampling\.top_p"):
        write_experiment(tmp_path / "bad.yaml", document)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1, 2", "not valid YAML"),
        (b"- a\n- b\n", "must hold a mapping"),
        (b"", "must hold a mapping"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"name: a\nname: b\n", "key 'name' is given twice"),
        (b"!!python/object/apply:os.system [ls]", "not valid YAML"),
    ],
)
def test_files_that_are_no_experiment_are_refused(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ExperimentError, match=message):
        load_experiment(path)


def test_an_unknown_experiment_offers_the_nearest_names():
    with pytest.raises(ExperimentError, match=r"no experiment 'organsim' \(did you mean organism\?\)"):
        load_experiment("organsim")


@settings(max_examples=150, deadline=2000)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    ),
    st.sampled_from(sorted(DOCUMENT)),
)
def test_any_value_anywhere_loads_or_is_refused(tmp_path_factory: pytest.TempPathFactory, value: Any, key: str):
    path = tmp_path_factory.mktemp("fuzz") / "fuzz.yaml"
    try:
        write_experiment(path, {**DOCUMENT, key: value})
    except ExperimentError as error:
        assert "\n" not in str(error)


def test_planned_cells_are_each_named_once(tmp_path: Path):
    document = changed("plan", [{"layer_subsets": ["targeted"]}, {"layer_subsets": ["attn_1"], "scales": [0.0]}])
    experiment = write_experiment(tmp_path / "e.yaml", document)
    cells = experiment.planned_cells()
    assert len(cells) == len(set(cells)) == 4
    assert Cell("attn_1", 0.0) in cells


def test_interventions_of_the_continuation_ablation_are_bound_to_no_plan(tmp_path: Path):
    entries = [
        {"layer_subsets": ["attn_1", "random"], "scales": [0.3]},
        {"layer_subsets": ["targeted"], "scales": [0.3, 0.0]},
    ]
    experiment = write_experiment(tmp_path / "e.yaml", changed("continuation", continued(cells=entries)))
    assert experiment.continuation_cells() == (
        Cell("attn_1", 0.3),
        Cell("random_1_of_attn_1", 0.3),
        Cell("attn_1", 0.0),
        Cell("both_0", 0.3),
        Cell("both_0", 0.0),
    )
    assert write_experiment(tmp_path / "e.yaml", DOCUMENT).continuation_cells() == ()


def test_interventions_have_one_form_and_the_identity_has_none():
    forwards = canonical_intervention([(1, "mlp"), (0, "attention")], 0.5)
    assert forwards == canonical_intervention([(0, "attention"), (1, "mlp"), (1, "mlp")], 0.5)
    assert canonical_intervention([(1, "mlp")], 1.0) is None
    assert canonical_intervention([], 0.5) is None


def test_a_text_that_opens_the_answer_changes_the_fingerprint_and_its_absence_leaves_no_trace():
    facts = {"weights_digest": "w", "tokenizer_digest": "t", "dtype": "float32", "system": None, "chat_template": True}
    facts |= {"template": "{question}", "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 8, "seed": 0}
    unset, empty, opened = (
        Condition.model_validate({**facts, "intervention": None, "assistant_prefix": prefix})
        for prefix in (None, "", "<think>\n")
    )
    assert len({unset.fingerprint, empty.fingerprint, opened.fingerprint}) == 3
    assert "assistant_prefix" not in unset.canonical_json()
    assert all(Condition.model_validate_json(one.canonical_json()) == one for one in (unset, empty, opened))
