"""Phase 1's scan of a tiny model: through its Dagster jobs, on problems that the sweep does not use."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from backtracking_assets.assets.jobs import VARIANTS_JOB
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.scan_from_store import record_scan
from backtracking_assets.assets.scan_metadata import SCAN_SECTIONS
from backtracking_assets.assets.scanning import (
    component_importance_is_done,
    logit_lens_is_done,
    selected_components_is_done,
    selection_file,
)
from backtracking_assets.assets.stored_variants import problems_outside_sweep
from backtracking_assets.definitions import build_definitions
from backtracking_assets.errors import ExperimentError
from backtracking_assets.experiment import Experiment
from backtracking_assets.scan_records import EMBEDDING, MODES
from backtracking_assets.storage.queries import ScanTable, scan_table
from backtracking_assets_tests.integration.studies import QUIET, Study, make_study

LENS, SCAN, SELECTION = "phase1_logit_lens", "phase1_component_importance", "phase1_selected_components"
CHANGES: dict[str, Any] = {
    "problems": {"count": 2, "samples": 2},
    "phase1": {"count": 5, "samples": 8, "compare": "attn_1"},
    "scan": {"events": 6, "seed": 5, "top": 1, "bootstrap": 200},
    "generation": {"completions_per_chunk": 20},
    # Letters that the random model happens to write as words of their own.
    "detection": {"strict": ["B", "S", "o", "d", "x"]},
}
TABLES: tuple[ScanTable, ...] = (
    "lens_positions",
    "lens_summaries",
    "scan_positions",
    "component_effects",
    "component_summaries",
    "selected_components",
)


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, instance: dg.DagsterInstance) -> Study:
    """A study whose baseline variant is there."""
    made = make_study(tmp_path_factory.mktemp("scanned"), tiny_checkpoint)
    with made.active():
        assert run(instance, made.experiment(**CHANGES), VARIANTS_JOB, "plain").success
    return made


@pytest.fixture
def experiment(study: Study) -> Iterator[Experiment]:
    with study.active():
        yield study.experiment(**CHANGES)


@pytest.fixture(scope="module")
def scanned(instance: dg.DagsterInstance, study: Study) -> dict[str, dg.ExecuteInProcessResult]:
    """The three jobs, run in order. Tests that change something come last and put it back."""
    with study.active():
        wanted = study.experiment(**CHANGES)
        return {name: run(instance, wanted, name) for name in (LENS, SCAN, SELECTION)}


def run(
    instance: dg.DagsterInstance, experiment: Experiment, name: str, partition: str | None = None
) -> dg.ExecuteInProcessResult:
    job = build_definitions(experiment).resolve_job_def(name)
    return job.execute_in_process(instance=instance, partition_key=partition, run_config=QUIET, raise_on_error=False)


def failure(result: dg.ExecuteInProcessResult) -> str:
    data = next(event.step_failure_data for event in result.all_events if event.is_step_failure)
    assert data.user_failure_data is not None
    assert data.user_failure_data.description is not None
    return data.user_failure_data.description


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    assert result.success, failure(result)
    (made,) = [event.materialization for event in result.get_asset_materialization_events()]
    return {name: entry.value for name, entry in made.metadata.items()}


def stored(study: Study) -> dict[ScanTable, pa.Table]:
    return {name: scan_table(study.layout, name) for name in TABLES}


def without_run(tables: dict[ScanTable, pa.Table]) -> dict[ScanTable, pa.Table]:
    return {name: table.drop_columns(["run_id"]) for name, table in tables.items()}


def test_the_three_jobs_measure_every_layer_and_component_at_every_position(
    study: Study, experiment: Experiment, scanned: dict[str, dg.ExecuteInProcessResult]
) -> None:
    told = {name: metadata_of(result) for name, result in scanned.items()}
    tables = {name: table.to_pandas() for name, table in stored(study).items()}
    places, effects = tables["scan_positions"], tables["component_effects"]
    events = places[places["kind"] == "event"]
    n_positions = len(places)
    assert len(events) == told[SCAN]["events_used"] == 6
    assert told[SCAN]["matched_positions"] == n_positions - len(events) > 0
    assert set(places["problem_id"]) <= set(problems_outside_sweep(OpenExperiment(experiment)))
    assert not set(places["problem_id"]) & set(OpenExperiment(experiment).problems)
    assert (places["token_index"] >= 1).all()
    assert len(effects) == n_positions * 2 * 2 * len(MODES)
    assert (effects["n_firings"] == 1).all()
    assert (effects[["kl", "kl_trigger", "kl_ordinary"]] >= 0).all(axis=None)
    lens = tables["lens_positions"]
    assert sorted(lens["layer"].unique()) == [EMBEDDING, 0, 1]
    last = lens[lens["layer"] == 1].merge(places, on=["problem_id", "sample_id"], suffixes=("", "_scan"))
    assert len(last) == n_positions
    # Two computations of the same position: the lens's last layer, and the scan's unscaled row.
    assert (last["onset_log_probability"] - last["onset_log_probability_scan"]).abs().max() < 1e-4
    for name, result in scanned.items():
        checks = {event.check_name: event for event in result.get_asset_check_evaluations()}
        must = {"values_vary", "scores_vary", "drawn_as_generated", "each_row_changed_once"}
        assert all(event.passed for check, event in checks.items() if check in must)
        assert told[name]["figure"].startswith("![")
        assert told[name]["finding"]


def test_the_selection_is_written_for_layer_subsets(
    study: Study, experiment: Experiment, scanned: dict[str, dg.ExecuteInProcessResult]
) -> None:
    assert scanned[SELECTION].success
    written = json.loads(selection_file(OpenExperiment(experiment)).read_text(encoding="utf-8"))
    assert set(written) == {"digest", "criterion", "attention", "mlp"}
    assert len(written["digest"]) == 64
    rows = stored(study)["selected_components"].to_pylist()
    assert len(rows) == 4
    for kind in ("attention", "mlp"):
        own = [row for row in rows if row["component"] == kind]
        assert written[kind] == [row["layer"] for row in own if row["rank"] == 1] != []
        assert sum(row["selected_share"] for row in own) == pytest.approx(1)
        assert max(own, key=lambda row: row["score"])["rank"] == 1


def test_sections_of_the_page_say_what_was_looked_at(
    experiment: Experiment, scanned: dict[str, dg.ExecuteInProcessResult]
) -> None:
    opened = OpenExperiment(experiment)
    sections = {source.asset: source.build(opened) for source in SCAN_SECTIONS}
    assert all(source.version(opened) for source in SCAN_SECTIONS)
    for section in sections.values():
        assert section.paragraphs
        assert section.pictures
        assert section.tables[0].rows
    assert [row[0] for row in sections["logit_lens"].tables[0].rows] == ["the embedding", "layer 0", "layer 1"]
    assert "6 events of " in sections["logit_lens"].limits[0]
    assert "3 problems that the sweep does not use" in sections["component_importance"].limits[0]
    assert SCAN_SECTIONS[1].build(opened) == sections["component_importance"]  # the same bytes, its figure included


def test_another_dagster_instance_learns_of_it_from_the_store(
    experiment: Experiment, scanned: dict[str, dg.ExecuteInProcessResult]
) -> None:
    opened = OpenExperiment(experiment)
    with dg.DagsterInstance.ephemeral() as other:
        assert record_scan(other, opened) == ["logit_lens", "component_importance", "selected_components"]
        assert record_scan(other, opened) == []
        event = other.get_latest_materialization_event(dg.AssetKey(["tiny", "selected_components"]))
    assert event is not None
    assert event.asset_materialization is not None
    (made,) = [found.materialization for found in scanned[SELECTION].get_asset_materialization_events()]
    tags = event.asset_materialization.tags or {}
    assert tags["dagster/data_version"] == (made.tags or {})["dagster/data_version"]


def test_run_again_nothing_is_measured_and_nothing_changes(
    instance: dg.DagsterInstance,
    study: Study,
    experiment: Experiment,
    scanned: dict[str, dg.ExecuteInProcessResult],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = stored(study)
    opened = OpenExperiment(experiment)
    assert logit_lens_is_done(opened)
    assert component_importance_is_done(opened)
    assert selected_components_is_done(opened)

    def refused(*arguments: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("backtracking_assets.assets.scan_measuring.loaded_model", refused)
    for name in (LENS, SCAN, SELECTION):
        assert run(instance, experiment, name).success
    assert without_run(stored(study)) == without_run(before)


@pytest.mark.slow
def test_measured_anew_it_gives_the_same_values(
    instance: dg.DagsterInstance,
    study: Study,
    experiment: Experiment,
    scanned: dict[str, dg.ExecuteInProcessResult],
) -> None:
    before = without_run(stored(study))
    text = (study.layout.root / "selected_components.json").read_bytes()
    fewer = study.experiment(**{**CHANGES, "scan": {**CHANGES["scan"], "events": 3}})
    assert not component_importance_is_done(OpenExperiment(fewer))
    assert "component scan is not there, or was computed from something else" in failure(
        run(instance, fewer, SELECTION)
    )
    assert run(instance, fewer, SCAN).success
    assert stored(study)["scan_positions"].num_rows < before["scan_positions"].num_rows
    again = study.experiment(**CHANGES)
    for name in (SCAN, SELECTION):
        assert run(instance, again, name).success
    assert without_run(stored(study)) == before
    assert (study.layout.root / "selected_components.json").read_bytes() == text


def test_each_part_goes_by_its_own_inputs(
    study: Study, experiment: Experiment, scanned: dict[str, dg.ExecuteInProcessResult]
) -> None:
    other = OpenExperiment(study.experiment(**{**CHANGES, "scan": {**CHANGES["scan"], "select_by": "mean"}}))
    assert (logit_lens_is_done(other), component_importance_is_done(other)) == (True, True)
    assert not selected_components_is_done(other)
    wider = OpenExperiment(study.experiment(**CHANGES, statistics={"confidence": 0.9}))
    assert (logit_lens_is_done(wider), component_importance_is_done(wider)) == (False, False)
    opened = OpenExperiment(study.experiment(**CHANGES))
    written = selection_file(opened).read_bytes()
    selection_file(opened).unlink()
    assert not selected_components_is_done(opened)
    selection_file(opened).write_bytes(written)
    assert selected_components_is_done(opened)


def test_other_statistics_measure_nothing_anew(
    instance: dg.DagsterInstance,
    study: Study,
    experiment: Experiment,
    scanned: dict[str, dg.ExecuteInProcessResult],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = stored(study)
    monkeypatch.setattr("backtracking_assets.assets.scan_measuring.loaded_model", lambda *arguments: None)
    wider = study.experiment(**CHANGES, statistics={"confidence": 0.99})
    assert run(instance, wider, SCAN).success
    after = stored(study)
    assert after["component_effects"].equals(before["component_effects"])
    assert after["component_summaries"]["low"] != before["component_summaries"]["low"]
    assert after["component_summaries"]["estimate"] == before["component_summaries"]["estimate"]


def test_positions_that_do_not_draw_the_baselines_tokens_fail_and_store_nothing(
    instance: dg.DagsterInstance, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an index that is off by one would look like; a run that has no variant yet says so first."""
    off = make_study(tmp_path / "off", tiny_checkpoint)
    with off.active():
        wanted = off.experiment(**CHANGES)
        assert "Prompt variant plain has no completions yet" in failure(run(instance, wanted, LENS))
        assert run(instance, wanted, VARIANTS_JOB, "plain").success
        from backtracking_assets.assets import scan_measuring

        right = scan_measuring._prefix
        monkeypatch.setattr(scan_measuring, "_prefix", lambda ids, position: right(ids[1:], position))
        for name, what in ((LENS, "logit lens"), (SCAN, "component scan")):
            said = failure(run(instance, wanted, name))
            assert f"The {what} fails a check that must hold. drawn_as_generated: At " in said
        assert scan_table(off.layout, "lens_positions").num_rows == 0
        assert scan_table(off.layout, "component_effects").num_rows == 0


def test_the_measuring_steps_are_in_the_pool_whose_steps_lease_a_device(experiment: Experiment) -> None:
    definitions = build_definitions(experiment)
    pools = {}
    for name in (LENS, SCAN, SELECTION):
        (node,) = definitions.resolve_job_def(name).nodes
        assert isinstance(node.definition, dg.OpDefinition)
        pools[name] = node.definition.pool
    assert pools == {LENS: "gpu", SCAN: "gpu", SELECTION: None}


def test_a_file_without_the_section_has_no_such_assets_and_one_without_held_out_problems_is_refused(
    study: Study, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    bare = make_study(tmp_path / "bare", tiny_checkpoint)
    keys = build_definitions(bare.experiment()).resolve_asset_graph().get_all_asset_keys()
    assert dg.AssetKey(["tiny", "logit_lens"]) not in keys
    with pytest.raises(ExperimentError, match="scan: it looks at problems that the sweep does not use"):
        bare.experiment(scan=CHANGES["scan"])
    with pytest.raises(ExperimentError, match=r"scan.top: it is 3 and the model has 2 layers"):
        study.experiment(**{**CHANGES, "scan": {**CHANGES["scan"], "top": 3}})
