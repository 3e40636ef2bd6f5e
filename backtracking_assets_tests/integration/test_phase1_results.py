"""Phase 1's results and page of a tiny model, through their Dagster jobs: what is missing is said, then it is there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from backtracking_assets.assets.jobs import VARIANTS_JOB
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.phase1_contents import phase1_is_reported, phase1_report_path, write_phase1_report
from backtracking_assets.assets.phase1_results import conditions_are_done, formatting_is_done, metrics_v2_is_done
from backtracking_assets.assets.reconciling import reconcile
from backtracking_assets.definitions import build_definitions
from backtracking_assets.experiment import Experiment
from backtracking_assets.records import Cell
from backtracking_assets.storage import queries
from backtracking_assets_tests.integration.studies import QUIET, Study, make_study, run_cell

# Letters that the random model happens to write as words of their own.
CHANGES: dict[str, Any] = {
    "phase1": {"count": 4, "samples": 6, "compare": "attn_1"},
    "prompting": {"variants": {"plain": "Q: {question}\n", "short": "{question}="}},
    "problems": {"samples": 6},
    "generation": {"completions_per_chunk": 24},
    "detection": {"strict": ["B", "S", "o", "d", "x"]},
}


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Study:
    return make_study(tmp_path_factory.mktemp("phase1"), tiny_checkpoint)


@pytest.fixture
def experiment(study: Study) -> Iterator[Experiment]:
    with study.active():
        yield study.experiment(**CHANGES)


def run_job(
    instance: dg.DagsterInstance, experiment: Experiment, name: str, partition: str | None = None
) -> dg.ExecuteInProcessResult:
    job = build_definitions(experiment).resolve_job_def(name)
    return job.execute_in_process(instance=instance, partition_key=partition, run_config=QUIET, raise_on_error=False)


def failure(result: dg.ExecuteInProcessResult) -> str:
    data = next(event.step_failure_data for event in result.all_events if event.is_step_failure)
    assert data.user_failure_data is not None
    return data.user_failure_data.description or ""


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (materialization,) = [event.materialization for event in result.get_asset_materialization_events()]
    return {name: entry.value for name, entry in materialization.metadata.items()}


def test_before_anything_is_there_each_job_says_what_to_make_first(
    instance: dg.DagsterInstance, study: Study, experiment: Experiment
) -> None:
    opened = OpenExperiment(experiment)
    opened.layout.prepare()
    for name in ("phase1_formatting_sweep", "metrics_v2"):
        assert "Of phase 1's prompt variants, plain, short are not there" in failure(
            run_job(instance, experiment, name)
        )
    assert "nothing to compare conditions with" in failure(run_job(instance, experiment, "phase1_compare_conditions"))
    assert not formatting_is_done(opened)
    page = run_job(instance, experiment, "make_report_phase1")
    assert metadata(page)["sections"] == "0 of 3"
    assert "Not measured yet" in phase1_report_path(opened).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_results_are_stored_and_shown_and_made_anew_only_where_their_inputs_change(
    instance: dg.DagsterInstance, study: Study, experiment: Experiment
) -> None:
    for variant in ("plain", "short"):
        assert run_job(instance, experiment, VARIANTS_JOB, variant).success
    assert run_cell(instance, experiment, Cell("attn_1", 1.0)).success
    ablated = run_cell(instance, experiment, Cell("attn_1", 0.0))
    assert ablated.success, failure(ablated)
    found = {name: run_job(instance, experiment, name) for name in ("phase1_formatting_sweep", "metrics_v2")}
    found["phase1_compare_conditions"] = run_job(instance, experiment, "phase1_compare_conditions")
    assert all(result.success for result in found.values())
    assert (
        "Missing, and therefore not compared: random_1_of_attn_1 at 0."
        in metadata(found["phase1_compare_conditions"])["found"]
    )
    opened = OpenExperiment(experiment)
    rows = queries.formatting(study.layout).to_pandas()
    assert set(rows["variant"]) == {"plain", "short"}
    assert set(rows.loc[rows["metric"] == "strict_rate", "n"]) == {4 * 6}
    detections = queries.detections(study.layout, rows["fingerprint"].iloc[0], opened.rules_digest).to_pandas()
    strict = rows[(rows["variant"] == rows["variant"].iloc[0]) & (rows["metric"] == "strict_rate")]
    assert strict["estimate"].iloc[0] == pytest.approx(detections["has_strict"].mean())
    backtracking = queries.backtracking_accuracy(study.layout).to_pandas()
    with_ = backtracking.query(
        "variant == @rows.variant.iloc[0] and figure == 'accuracy_with' and completions == 'all'"
    )
    assert with_["n"].iloc[0] == detections["has_strict"].sum()
    roles = queries.condition_comparison(study.layout).to_pandas().groupby("role")["layer_subset"].first()
    assert roles.to_dict() == {"baseline": "attn_1", "targeted": "attn_1"}
    assert formatting_is_done(opened)
    assert metrics_v2_is_done(opened)
    assert conditions_are_done(opened)

    assert not phase1_is_reported(opened)
    assert metadata(run_job(instance, experiment, "make_report_phase1"))["sections"] == "3 of 3"
    assert phase1_is_reported(OpenExperiment(experiment))
    before = phase1_report_path(opened).read_bytes()
    write_phase1_report(OpenExperiment(experiment))
    assert phase1_report_path(opened).read_bytes() == before

    # A condition that comes in changes its comparison and the page, and nothing else.
    assert run_cell(instance, experiment, Cell("random_1_of_attn_1", 0.0)).success
    opened = OpenExperiment(experiment)
    assert not conditions_are_done(opened)
    assert not phase1_is_reported(opened)
    assert formatting_is_done(opened)
    assert metrics_v2_is_done(opened)
    # Another Dagster instance takes from the store what is current, once.
    with dg.DagsterInstance.ephemeral() as other:
        first = [asset for asset, _ in reconcile(other, opened).recorded]
        assert {"formatting_sweep", "metrics_v2"} <= set(first)
        assert not {"compare_conditions", "phase1_report"} & set(first)
        assert reconcile(other, opened).recorded == []
    # Other statistics make all of them older than they are asked for.
    changed = OpenExperiment(study.experiment(**CHANGES, statistics={"confidence": 0.9}))
    assert not formatting_is_done(changed)
    assert not metrics_v2_is_done(changed)


def test_a_study_without_a_phase_1_has_none_of_its_assets(study: Study) -> None:
    with study.active():
        plain = study.experiment()
        names = {key.path[-1] for key in build_definitions(plain).resolve_all_asset_keys()}
        assert not names & {"formatting_sweep", "metrics_v2", "compare_conditions", "phase1_report"}
        assert formatting_is_done(OpenExperiment(plain))
        assert phase1_is_reported(OpenExperiment(plain))
