"""Subsets that are scaled towards means, act on trigger odds, or follow a ranking: through a whole sweep, and after."""

import json
import shutil
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from backtracking_assets.assets.averaging import component_means_is_done, ensure_means, stored_means
from backtracking_assets.assets.compositions import MEANS, means_digest_of, means_made_from
from backtracking_assets.assets.loaded import prompts
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.restoring import restore_cells
from backtracking_assets.assets.status import CellStatus, planned_status
from backtracking_assets.cli.instance import open_instance
from backtracking_assets.cli.sweep import run_sweep
from backtracking_assets.errors import ProblemFileError, WaitingError
from backtracking_assets.records import Cell
from backtracking_assets.storage import queries
from backtracking_assets.storage.archive import read_archive
from backtracking_assets.storage.means import means_path, read_means
from backtracking_assets.storage.rebuilding import commit_archives, rebuilding
from backtracking_assets.storage.selections import selection_path
from backtracking_assets_tests.integration.studies import Study, make_study, run_cell

LISTED, MEAN, TRIGGER = Cell("attn_1", 0.0), Cell("mean", 0.0), Cell("trigger_logits", 0.5)
PICKED, PICKED_AT_ONE = Cell("picked", 0.0), Cell("picked", 1.0)
CHANGES: dict[str, Any] = {
    "layer_subsets": {
        "mean": {"attention": [1], "towards": "mean"},
        "picked": {"from": "selected_components", "kinds": ["attention"], "top": 1},
    },
    "controls": {"random": [], "trigger_logits": True},
    "scales": [0.0, 0.5, 1.0],
    "means": {"problems": 2},
    "plan": [
        {"layer_subsets": ["attn_1", "picked"], "scales": [0.0, 1.0]},
        {"layer_subsets": ["mean"], "scales": [0.0]},
        {"layer_subsets": ["trigger_logits"], "scales": [0.5]},
    ],
}


def sweep(study: Study) -> str:
    """What a whole sweep says; it ends well."""
    said = StringIO()
    assert run_sweep(str(study.file), [], [], "full_study", Console(file=said, width=10_000)) == 0
    return said.getvalue()


def select(study: Study, **ranking: list[int]) -> None:
    document = {"digest": "d", "criterion": "by hand", "attention": [], "mlp": [], **ranking}
    selection_path(study.layout, "selected_components").write_text(json.dumps(document))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> tuple[Study, str]:
    study = make_study(tmp_path_factory.mktemp("waiting"), tiny_checkpoint)
    study.experiment(**CHANGES)
    with study.active():
        return study, sweep(study)


@pytest.fixture
def study(swept: tuple[Study, str]) -> Iterator[Study]:
    found, _ = swept
    with found.active():
        yield found
    selection_path(found.layout, "selected_components").unlink(missing_ok=True)
    found.experiment(**CHANGES)


def opened(study: Study, **changes: Any) -> OpenExperiment:
    return study.opened(**{**CHANGES, **changes})


def statuses(study: Study, **changes: Any) -> dict[Cell, CellStatus]:
    return {status.cell: status for status in planned_status(opened(study, **changes))}


def test_means_are_computed_first_and_cells_without_a_ranking_are_left_out(swept: tuple[Study, str], study: Study):
    said = swept[1]
    assert "Means of the outputs: 2 completions of the baseline on 2 problems that the sweep does not ask." in said
    assert said.count("Left out:") == 1
    assert "Left out: 2 cells of picked, waiting for selected_components: no components are selected; " in said
    found = statuses(study)
    assert {cell: status.state for cell, status in found.items()} == {
        LISTED: "done",
        Cell("attn_1", 1.0): "done",
        PICKED: "waiting",
        PICKED_AT_ONE: "waiting",
        MEAN: "done",
        TRIGGER: "done",
    }
    assert found[PICKED].next == "`backtracking sweep --job phase1` computes it"


def test_nothing_is_left_to_do_for_a_second_sweep(study: Study):
    said = sweep(study)
    assert "4 done before, 2 to do." in said
    assert "Means of the outputs" not in said


def test_each_subset_acts_as_it_says_and_is_stored_so(study: Study):
    rows = {row["layer_subset"]: row for row in queries.layer_subsets(study.layout).to_pylist()}
    facts = ("kind", "components", "towards", "means_digest", "trigger_tokens", "derived_from")
    means = means_digest_of(opened(study))
    ids = list(opened(study).composition("trigger_logits").trigger_tokens or ())
    assert {name: tuple(row[fact] for fact in facts) for name, row in rows.items()} == {
        "attn_1": ("components", ["attention.1"], "zero", None, None, None),
        "mean": ("components", ["attention.1"], "mean", means, None, None),
        "trigger_logits": ("trigger_logits", [], None, None, ids, None),
    }
    tokenizer = {
        text: token for token, text in (opened(study).composition("trigger_logits").trigger_tokens or {}).items()
    }
    assert set(tokenizer) == {"W", "w"}
    firings = queries.completions(study.layout, opened(study).condition(TRIGGER).fingerprint).to_pylist()
    assert all(row["n_firings"] == row["n_tokens"] - 1 for row in firings)
    checks = queries.checks(study.layout).to_pylist()
    assert all(row["passed"] for row in checks if row["severity"] == "error")
    assert sum(row["name"] == "identity_at_scale_1" for row in checks) == 4


@pytest.mark.slow
def test_a_selection_that_equals_a_listed_subset_links_its_completions(study: Study):
    select(study, attention=[1, 0])
    assert statuses(study)[PICKED].state == "partial"
    assert "Left out" not in sweep(study)
    cells = {Cell(row["layer_subset"], row["scale"]): row for row in queries.cells(study.layout).to_pylist()}
    assert cells[PICKED]["fingerprint"] == cells[LISTED]["fingerprint"]
    assert cells[PICKED]["linked"]
    row = next(r for r in queries.layer_subsets(study.layout).to_pylist() if r["layer_subset"] == "picked")
    assert (row["components"], row["derived_from"]) == (["attention.1"], "selected_components")
    # A new ranking makes the derived cell stale and no other one; at scale 1 it is the baseline whatever it ranks.
    select(study, attention=[0, 1])
    found = statuses(study)
    assert {cell for cell, status in found.items() if status.state != "done"} == {PICKED}
    assert found[PICKED].reason == "layers: attention 1 → attention 0"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"digest": "d", "criterion": "c", "attention": [7], "mlp": []}', "it names attention layer 7, and the model"),
        ('{"digest": "d", "criterion": "c", "attention": [], "mlp": [1]}', "it ranks 0 attention layers and top asks"),
        ('{"digest": "d", "criterion": "c", "attention": [1, 1], "mlp": []}', "is no selection (attention names a"),
        ('{"digest": "d", "attention": [1], "mlp": []}', "is no selection (criterion)"),
        ("[" * 100_000, "is no selection"),
        ("", "is no selection"),
    ],
)
def test_a_ranking_that_is_of_no_use_keeps_only_its_own_cells_waiting(study: Study, text: str, said: str):
    selection_path(study.layout, "selected_components").write_text(text)
    found = statuses(study)
    assert {cell for cell, status in found.items() if status.state == "waiting"} == {PICKED, PICKED_AT_ONE}
    assert {status.state for cell, status in found.items() if cell.layer_subset != "picked"} == {"done"}
    assert said in found[PICKED].reason


def test_a_ranking_of_an_imported_run_is_read_from_its_folder(study: Study):
    subsets = {"picked": {"from": "imported/run_7", "kinds": ["attention", "mlp"], "top": 1}}
    assert statuses(study, layer_subsets={**CHANGES["layer_subsets"], **subsets})[PICKED].waits_for == "imported/run_7"
    path = selection_path(study.layout, "imported/run_7")
    path.parent.mkdir(parents=True)
    path.write_text('{"digest": "d", "criterion": "c", "attention": [1], "mlp": [0], "more": 1}')
    again = study.opened(**{**CHANGES, "layer_subsets": {**CHANGES["layer_subsets"], **subsets}})
    assert again.composition("picked").names() == ["mlp.0", "attention.1"]


def test_a_run_of_a_cell_that_waits_fails_with_the_sentence(study: Study):
    with open_instance() as instance:
        result = run_cell(instance, study.experiment(**CHANGES), PICKED)
    failures = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
    assert any("Layer subset picked waits for selected_components: no" in str(error) for error in failures)
    with pytest.raises(WaitingError):
        opened(study).condition(PICKED)


def test_means_equal_those_of_plain_transformers(study: Study):
    """Over the same completions, one forward pass each, by hooks on another instance of the model."""
    held_out = opened(study).held_out
    model = AutoModelForCausalLM.from_pretrained(held_out.checkpoint.folder, dtype=torch.float32).eval()
    rows = {
        (r["problem_id"], r["sample_id"]): r
        for r in read_archive(study.layout, held_out.baseline.fingerprint).to_pylist()
    }
    assert not set(held_out.problems) & set(opened(study).problems)
    seen: dict[tuple[int, str], list[np.ndarray]] = {}
    keys = held_out.keys()
    for problem_id, sample_id in keys:
        prompt, tokens = prompts(held_out)[problem_id].token_ids, rows[problem_id, sample_id]["token_ids"]
        hooks = []

        def keep(place: tuple[int, str], start: int) -> Any:
            def hook(module: Any, inputs: Any, output: Any) -> None:
                values = output[0] if isinstance(output, tuple) else output
                seen.setdefault(place, []).append(values[0, start:].double().numpy())

            return hook

        for number, layer in enumerate(model.model.layers):
            hooks.append(layer.self_attn.register_forward_hook(keep((number, "attention"), len(prompt))))
            hooks.append(layer.mlp.register_forward_hook(keep((number, "mlp"), len(prompt))))
        with torch.inference_mode():
            model(input_ids=torch.tensor([[*prompt, *tokens[:-1]]]))
        for handle in hooks:
            handle.remove()
    note = stored_means(opened(study))
    assert note is not None
    assert note.n_positions == sum(len(values) for values in seen[0, "mlp"])
    vectors = read_means(study.layout, note.means)
    assert set(vectors) == set(seen)
    for place, vector in vectors.items():
        np.testing.assert_allclose(vector, np.concatenate(seen[place]).mean(axis=0), atol=1e-5)


def test_means_made_again_have_the_same_bytes(study: Study):
    digest = means_digest_of(opened(study))
    assert digest is not None
    path = means_path(study.layout, digest)
    before = path.read_bytes()
    shutil.rmtree(study.layout.means)
    assert statuses(study)[MEAN].waits_for == MEANS
    assert not component_means_is_done(opened(study))
    note, computed_now = ensure_means(opened(study), run_id="again", log=print)
    assert (note.means, computed_now, path.read_bytes()) == (digest, True, before)
    assert statuses(study)[MEAN].state == "done"


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [_flip, lambda path: path.write_bytes(b""), Path.unlink])
def test_damaged_means_are_computed_anew_and_no_cell_changes(study: Study, harm: Callable[[Path], Any]):
    digest = means_digest_of(opened(study))
    assert digest is not None
    harm(means_path(study.layout, digest))
    found = statuses(study)
    assert {cell for cell, status in found.items() if status.waits_for == MEANS} == {MEAN}
    ensure_means(opened(study), run_id="again", log=print)
    assert means_digest_of(opened(study)) == digest
    assert statuses(study)[MEAN].state == "done"


def test_other_means_make_only_their_own_cells_stale(study: Study):
    asked = {"means": {"problems": 1}}
    assert statuses(study, **asked)[MEAN].waits_for == MEANS
    ensure_means(opened(study, **asked), run_id="other", log=print)
    found = statuses(study, **asked)
    assert {cell for cell, status in found.items() if status.state not in ("done", "waiting")} == {MEAN}
    assert found[MEAN].reason == "layers: scaled towards other means"
    assert statuses(study)[MEAN].state == "done"


def test_other_triggers_are_another_condition_of_their_own_cells_alone(study: Study):
    found = statuses(study, detection={"strict": ["No"], "relaxed": []})
    assert found[TRIGGER].reason.startswith("trigger tokens: ")
    assert "trigger tokens" not in found[MEAN].reason


def test_too_few_problems_are_named(study: Study):
    with pytest.raises(
        ProblemFileError, match=r"it holds 5 problems, and in .* asks for 3 and means.problems for 3 oth"
    ):
        means_made_from(opened(study, means={"problems": 3}))


def test_a_database_made_anew_holds_the_same_subsets_and_conditions(study: Study):
    def held() -> list[list[dict[str, Any]]]:
        conditions = [row for row in queries.cells(study.layout).to_pylist() if row["layer_subset"] != "picked"]
        named = [{key: row[key] for key in ("layer_subset", "scale", "fingerprint")} for row in conditions]
        subsets = [row for row in queries.layer_subsets(study.layout).to_pylist() if row["layer_subset"] != "picked"]
        return [sorted(named, key=str), sorted(subsets, key=str)]

    before = held()
    with rebuilding(study.layout) as new:
        commit_archives(new, run_id="restored")
        restored = restore_cells(OpenExperiment(study.experiment(**CHANGES), layout=new))
    assert set(restored.absent) == {PICKED, PICKED_AT_ONE}
    assert held() == before
