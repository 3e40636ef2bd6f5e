"""The continuation ablation of a tiny model: through its Dagster job, and through `sweep` as a person meets it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from backtracking_assets.assets.continuing import continuation_digest, required_baseline, stored_summaries
from backtracking_assets.assets.jobs import CONTINUATION_JOB
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.definitions import build_definitions
from backtracking_assets.experiment import Experiment
from backtracking_assets.records import UNSCALED, Cell
from backtracking_assets.storage import queries
from backtracking_assets_tests.integration.processes import Finished, backtracking
from backtracking_assets_tests.integration.studies import QUIET, Study, make_study, run_cell

SECTION = {
    "events": 12,
    "seed": 5,
    "cells": [{"layer_subsets": ["targeted"], "scales": [0.0, 0.5]}],
    "continuations": 4,
    "max_new_tokens": 3,
}
# Letters that the random model happens to write as words of their own.
CHANGES: dict[str, Any] = {
    "continuation": SECTION,
    "problems": {"count": 5, "samples": 12},
    "generation": {"completions_per_chunk": 20},
    "detection": {"strict": ["B", "S", "o", "d", "x"]},
    "plan": [{"layer_subsets": ["attn_1"]}],
}
CELLS = {Cell(name, scale) for name in ("attn_1", "both_0") for scale in (0.0, 0.5)}
WITHOUT_RUN = ("run_id",)


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, instance: dg.DagsterInstance) -> Study:
    """A study whose baseline is there."""
    made = make_study(tmp_path_factory.mktemp("continued"), tiny_checkpoint)
    with made.active():
        assert run_cell(instance, made.experiment(**CHANGES), Cell("attn_1", 1.0)).success
    return made


@pytest.fixture
def experiment(study: Study) -> Iterator[Experiment]:
    with study.active():
        yield study.experiment(**CHANGES)


def run_job(instance: dg.DagsterInstance, experiment: Experiment) -> dg.ExecuteInProcessResult:
    job = build_definitions(experiment).resolve_job_def(CONTINUATION_JOB)
    return job.execute_in_process(instance=instance, run_config=QUIET, raise_on_error=False)


def failure(result: dg.ExecuteInProcessResult) -> str:
    data = next(event.step_failure_data for event in result.all_events if event.is_step_failure)
    assert data.user_failure_data is not None
    assert data.user_failure_data.description is not None
    return data.user_failure_data.description


def test_the_job_measures_every_position_under_every_intervention(
    instance: dg.DagsterInstance, study: Study, experiment: Experiment
) -> None:
    result = run_job(instance, experiment)
    assert result.success
    (materialization,) = [event.materialization for event in result.get_asset_materialization_events()]
    metadata: dict[str, Any] = {name: entry.value for name, entry in materialization.metadata.items()}
    positions = queries.continuation_positions(study.layout).to_pandas()
    events, controls = (positions[positions["kind"] == kind] for kind in ("event", "control"))
    assert set(zip(positions["layer_subset"], positions["scale"], strict=True)) == {
        (cell.layer_subset, cell.scale) for cell in {UNSCALED, *CELLS}
    }
    n_events, n_controls = metadata["events_used"], metadata["matched_positions"]
    assert n_events == min(12, metadata["events_found"] - metadata["events_at_first_token"])
    assert len(events) == n_events * 5
    assert len(controls) == n_controls * 5 > 0
    assert positions[["onset_probability", "trigger_probability"]].max(axis=None) <= 1
    assert (positions["onset_probability"] <= positions["trigger_probability"] + 1e-12)[
        positions["kind"] == "event"
    ].all()
    unscaled = positions[positions["layer_subset"] == UNSCALED.layer_subset]
    assert unscaled["same_draw"].mean() > 0.9
    samples = queries.continuation_samples(study.layout).to_pandas()
    assert len(samples) == n_events * (1 + 2 * 4)
    assert set(samples["n_continuations"]) == {4}
    assert (samples["n_again"] <= samples["n_within"]).all()
    assert metadata["measured_now"] is True
    assert "p(onset)" in metadata["figures"]
    assert metadata["figure"].startswith("![")
    checks = {event.check_name: event.passed for event in result.get_asset_check_evaluations()}
    assert set(checks) == {"probabilities_vary", "drawn_as_generated", "enough_positions"}
    assert checks["probabilities_vary"]
    assert checks["drawn_as_generated"]
    opened = OpenExperiment(experiment)
    assert (materialization.tags or {})["dagster/data_version"] == continuation_digest(
        opened, required_baseline(opened)
    )


def test_materialized_again_it_measures_nothing(
    instance: dg.DagsterInstance, study: Study, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_job(instance, experiment).success
    before = queries.continuation_positions(study.layout)

    def refused(*arguments: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("backtracking_assets.assets.continuing.loaded_model", refused)
    assert run_job(instance, experiment).success
    assert queries.continuation_positions(study.layout).equals(before)


def test_other_statistics_change_intervals_and_no_position(
    instance: dg.DagsterInstance, study: Study, experiment: Experiment
) -> None:
    assert run_job(instance, experiment).success
    positions, summaries = queries.continuation_positions(study.layout), queries.continuation_summaries(study.layout)
    wider = study.experiment(**CHANGES, statistics={"confidence": 0.99})
    assert stored_summaries(OpenExperiment(wider)) is None
    assert run_job(instance, wider).success
    assert queries.continuation_positions(study.layout).equals(positions)
    assert queries.continuation_summaries(study.layout)["low"] != summaries["low"]


def test_another_computation_gives_the_same_values(
    instance: dg.DagsterInstance, study: Study, experiment: Experiment
) -> None:
    assert run_job(instance, experiment).success
    first = queries.continuation_positions(study.layout), queries.continuation_samples(study.layout)
    other = study.experiment(**{**CHANGES, "continuation": {**SECTION, "events": 3}})
    assert run_job(instance, other).success
    assert queries.continuation_positions(study.layout).num_rows < first[0].num_rows
    assert run_job(instance, study.experiment(**CHANGES)).success
    again = queries.continuation_positions(study.layout), queries.continuation_samples(study.layout)
    for before, after in zip(first, again, strict=True):
        assert before.drop_columns(list(WITHOUT_RUN)).equals(after.drop_columns(list(WITHOUT_RUN)))


def test_without_a_baseline_one_sentence_says_so(
    instance: dg.DagsterInstance, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    bare = make_study(tmp_path / "bare", tiny_checkpoint)
    with bare.active():
        result = run_job(instance, bare.experiment(continuation=SECTION))
    assert "There are no events to look at: no cell at scale 1.0 is there" in failure(result)


def test_a_baseline_without_events_is_an_error(
    instance: dg.DagsterInstance, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    silent = make_study(tmp_path / "silent", tiny_checkpoint)
    with silent.active():
        experiment = silent.experiment(continuation=SECTION)  # whose trigger, Wait, a random model never writes
        assert run_cell(instance, experiment, Cell("attn_1", 1.0)).success
        result = run_job(instance, experiment)
        assert "The baseline has no strict event after a completion's first token (0 of 6" in failure(result)
        assert queries.continuation_summaries(silent.layout).num_rows == 0


def test_positions_that_do_not_draw_the_baselines_tokens_fail_the_run_and_store_nothing(
    instance: dg.DagsterInstance, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an index that is off by one would look like."""
    off = make_study(tmp_path / "off", tiny_checkpoint)
    with off.active():
        experiment = off.experiment(**CHANGES)
        assert run_cell(instance, experiment, Cell("attn_1", 1.0)).success
        from backtracking_assets.assets import continuing

        right = continuing._prefix

        def shifted(position: Any, prompt_ids: tuple[int, ...], settings: Any) -> Any:
            return right(position, prompt_ids[1:], settings)

        monkeypatch.setattr(continuing, "_prefix", shifted)
        result = run_job(instance, experiment)
        assert "The continuation ablation fails a check that must hold. drawn_as_generated: At " in failure(result)
        assert queries.continuation_positions(off.layout).num_rows == 0


def test_the_step_is_in_the_pool_whose_steps_lease_a_device(study: Study, experiment: Experiment) -> None:
    job = build_definitions(experiment).resolve_job_def(CONTINUATION_JOB)
    steps = {node.name: node.definition for node in job.nodes}
    assert [definition.pool for definition in steps.values() if isinstance(definition, dg.OpDefinition)] == ["gpu"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> dict[str, Any]:
    """What the commands said, one after another, and what stood in the store after each."""
    made = make_study(tmp_path_factory.mktemp("swept"), tiny_checkpoint)
    made.experiment(**CHANGES)
    folder = tmp_path_factory.mktemp("streams")
    said: dict[str, Any] = {"study": made}

    def run(name: str, *options: str) -> Finished:
        said[name] = backtracking(*options, environment=made.environment, folder=folder)
        said[f"rows after {name}"] = queries.continuation_positions(made.layout)
        page = made.layout.reports / "phase2_report.html"
        said[f"page after {name}"] = page.read_text(encoding="utf-8") if page.is_file() else ""
        return said[name]

    file = str(made.file)
    run("one cell", "sweep", file, "--layer-subset", "attn_1", "--scale", "1.0")
    run("job", "sweep", file, "--job", CONTINUATION_JOB)
    run("job again", "sweep", file, "--job", CONTINUATION_JOB)
    run("rest", "sweep", file)
    run("again", "sweep", file)
    made.experiment(**{**CHANGES, "continuation": {**SECTION, "events": 2}})
    run("report of another list", "report", file)
    run("another list", "sweep", file)
    return said


def test_some_cells_of_the_study_do_not_wait_for_it(swept: dict[str, Any]) -> None:
    assert swept["one cell"].code == 0
    assert swept["rows after one cell"].num_rows == 0
    assert "--job phase2_continuation_ablation` does it." in swept["page after one cell"]


def test_sweep_does_the_job_and_skips_it_when_it_is_done(swept: dict[str, Any]) -> None:
    assert swept["job"].code == 0, swept["job"].stderr + swept["job"].stdout
    assert "1 cells of 60 completions, 1 done before, 0 to do." in swept["job"].stdout
    rows = swept["rows after job"]
    assert rows.num_rows > 0
    for name in ("job again", "rest", "again"):
        assert swept[name].code == 0
        assert swept[f"rows after {name}"].equals(rows)  # to the run that made them


def test_the_page_shows_it(swept: dict[str, Any]) -> None:
    page = swept["page after rest"]
    assert "Where the baseline began to backtrack" in page
    assert "(unscaled)" in page
    assert "The continuation ablation is not shown" not in page


def test_another_list_is_reported_as_missing_and_then_done(swept: dict[str, Any]) -> None:
    assert swept["report of another list"].code == 0
    assert swept["rows after report of another list"].equals(swept["rows after again"])
    assert (
        "The continuation ablation is not shown. It is not computed from" in swept["page after report of another list"]
    )
    assert swept["another list"].code == 0
    assert 0 < swept["rows after another list"].num_rows < swept["rows after again"].num_rows
    assert "The continuation ablation is not shown" not in swept["page after another list"]


def test_a_finished_sweep_does_not_import_torch(swept: dict[str, Any]) -> None:
    import os
    import subprocess
    import sys

    study: Study = swept["study"]
    code = (
        "import sys\n"
        "from rich.console import Console\n"
        "from backtracking_assets.cli.sweep import run_sweep\n"
        f"code = run_sweep({str(study.file)!r}, [], [], 'full_study', Console())\n"
        "assert 'torch' not in sys.modules\n"
        "import os; sys.stdout.flush(); os._exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **study.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_file_without_the_section_has_no_such_job(tmp_path: Path, tiny_checkpoint: Path) -> None:
    bare = make_study(tmp_path / "bare", tiny_checkpoint)
    said = backtracking(
        "sweep", str(bare.file), "--job", CONTINUATION_JOB, environment=bare.environment, folder=tmp_path
    )
    assert said.code == 2
    assert "has no section continuation" in said.stderr
    graph = build_definitions(bare.experiment()).resolve_asset_graph()
    assert dg.AssetKey(["tiny", "continuation_ablation"]) not in graph.get_all_asset_keys()
