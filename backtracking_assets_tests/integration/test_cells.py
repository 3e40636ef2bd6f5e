"""Cells as Dagster runs and records them: rows, links, data versions, lineage, checks and metadata."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import dagster as dg
import pytest

from backtracking_assets.assets import cells
from backtracking_assets.assets.checks import SPECS
from backtracking_assets.assets.event_log import recorded
from backtracking_assets.assets.generating import ensure_completions
from backtracking_assets.assets.identity import Identity
from backtracking_assets.assets.jobs import CELL_ASSETS
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.sources import record_sources
from backtracking_assets.cli.instance import open_instance
from backtracking_assets.conditions import GENERATOR_VERSION
from backtracking_assets.errors import CheckpointError
from backtracking_assets.measures import MEASURES
from backtracking_assets.partitions import cell_key
from backtracking_assets.records import COMPLETIONS, DETECTIONS, METRICS, Cell
from backtracking_assets.storage import queries
from backtracking_assets.storage.database import reading
from backtracking_assets.storage.tables import TABLES
from backtracking_assets_tests.integration.studies import Study, content, make_study, run_cell

BASELINE, LINKED, ABLATED = Cell("attn_1", 1.0), Cell("both_0", 1.0), Cell("both_0", 0.0)
CELLS = (BASELINE, LINKED, ABLATED)
SOURCES = ("problems", "model_checkpoint", "sampling_settings")
_TAG = "dagster/input_data_version/tiny/"


def made_by(study: Study, opened: OpenExperiment) -> list[str]:
    """The runs that generated the ablated cell's completions."""
    return queries.completions(study.layout, opened.condition(ABLATED).fingerprint)["run_id"].unique().to_pylist()


@dataclass(frozen=True)
class Swept:
    """Three cells that were run one after another, each in a run of its own."""

    study: Study
    instance: dg.DagsterInstance
    opened: OpenExperiment
    results: dict[Cell, dg.ExecuteInProcessResult]

    def materialization(self, asset: str, cell: Cell) -> dg.AssetMaterialization:
        """The latest materialization of a cell's asset."""
        wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(["tiny", asset]), asset_partitions=[cell_key(cell)])
        found = self.instance.fetch_materializations(wanted, limit=1).records[0].asset_materialization
        assert found is not None
        return found

    def tags(self, asset: str, cell: Cell) -> dict[str, str]:
        return dict(self.materialization(asset, cell).tags or {})

    def metadata(self, asset: str, cell: Cell) -> dict[str, dg.MetadataValue]:
        return dict(self.materialization(asset, cell).metadata)


def latest_data_version(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None) -> str | None:
    """The data version of the latest materialization; None where there is none."""
    found = recorded(instance, key, partition)
    return None if found is None else found.data_version


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[Swept]:
    study = make_study(tmp_path_factory.mktemp("cells"), tiny_checkpoint)
    with study.active(), open_instance() as instance:
        opened = study.opened()
        record_sources(instance, opened)
        results = {cell: run_cell(instance, opened.experiment, cell) for cell in CELLS}
        yield Swept(study, instance, opened, results)


@pytest.fixture(autouse=True)
def _outputs_of_the_sweep(swept: Swept) -> Iterator[None]:
    with swept.study.active():
        yield


def test_a_cells_run_materializes_its_four_assets(swept: Swept) -> None:
    for result in swept.results.values():
        assert result.success
        made = [event.asset_key for event in result.get_asset_materialization_events()]
        assert made == [dg.AssetKey(["tiny", name]) for name in CELL_ASSETS]


def test_every_cell_has_each_planned_completion_once(swept: Swept) -> None:
    with reading(swept.study.layout) as connection:
        rows = connection.execute("select layer_subset, scale, problem_id, sample_id from generations").fetchall()
    planned = swept.opened.keys()
    expected = [(cell.layer_subset, cell.scale, *key) for cell in CELLS for key in planned]
    assert Counter(rows) == Counter(expected)
    assert len(expected) == len(CELLS) * 3 * 2


def test_the_database_holds_each_condition_once_and_what_was_read_from_it(swept: Swept) -> None:
    layout, planned = swept.study.layout, swept.opened.experiment.completions_per_cell
    fingerprints = {swept.opened.condition(cell).fingerprint for cell in CELLS}
    assert queries.completion_counts(layout) == dict.fromkeys(sorted(fingerprints), planned)
    for fingerprint in fingerprints:
        assert queries.detected_keys(layout, fingerprint, swept.opened.rules_digest) == set(swept.opened.keys())
    metrics = queries.metrics(layout).to_pylist()
    names = {name for name, measure in MEASURES.items() if not measure.needs_steps}
    assert Counter((row["layer_subset"], row["scale"], row["metric"]) for row in metrics) == Counter(
        (cell.layer_subset, cell.scale, name) for cell in CELLS for name in names
    )


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_no_null_stands_where_the_schema_forbids_it_and_keys_are_unique(swept: Swept, table) -> None:
    required = [field.name for field in table.schema if not field.nullable]
    key = ", ".join(table.key)
    with reading(swept.study.layout) as connection:
        missing = " or ".join(f'"{name}" is null' for name in required)
        assert connection.execute(f"select count(*) from {table.name} where {missing}").fetchone() == (0,)
        repeated = f"select count(*) from (select {key} from {table.name} group by {key} having count(*) > 1)"
        assert connection.execute(repeated).fetchone() == (0,)


def test_interventions_fired_in_every_decode_step(swept: Swept) -> None:
    layout = swept.study.layout
    for cell, n_components in ((BASELINE, 0), (ABLATED, 2)):
        rows = queries.completions(layout, swept.opened.condition(cell).fingerprint).to_pylist()
        assert [row["n_firings"] for row in rows] == [n_components * (row["n_tokens"] - 1) for row in rows]
        assert any(row["n_tokens"] > 1 for row in rows)


def test_scale_1_of_two_subsets_is_one_condition_and_the_second_is_linked(swept: Swept) -> None:
    assert swept.opened.condition(BASELINE).fingerprint == swept.opened.condition(LINKED).fingerprint
    rows = {Cell(row["layer_subset"], row["scale"]): row for row in queries.cells(swept.study.layout).to_pylist()}
    assert rows[BASELINE]["fingerprint"] == rows[LINKED]["fingerprint"] != rows[ABLATED]["fingerprint"]
    assert {cell: rows[cell]["linked"] for cell in CELLS} == {BASELINE: False, LINKED: True, ABLATED: False}
    made_by = {
        cell: queries.completions(swept.study.layout, rows[cell]["fingerprint"])["run_id"].unique().to_pylist()
        for cell in CELLS
    }
    assert made_by[BASELINE] == made_by[LINKED] == [swept.results[BASELINE].run_id]
    assert made_by[ABLATED] == [swept.results[ABLATED].run_id]
    generated = {cell: swept.metadata("generations", cell)["generated_now"].value for cell in CELLS}
    assert generated == {BASELINE: 6, LINKED: 0, ABLATED: 6}


def test_a_finished_cell_that_runs_again_generates_nothing_and_stays_as_it_is(swept: Swept) -> None:
    layout, fingerprint = swept.study.layout, swept.opened.condition(ABLATED).fingerprint
    before = queries.completions(layout, fingerprint)
    archive = layout.archive_of(fingerprint).read_bytes()
    version = swept.tags("metrics", ABLATED)["dagster/data_version"]
    result = run_cell(swept.instance, swept.opened.experiment, ABLATED)
    assert result.success
    assert swept.metadata("generations", ABLATED)["generated_now"].value == 0
    assert queries.completions(layout, fingerprint).equals(before)
    assert layout.archive_of(fingerprint).read_bytes() == archive
    assert swept.tags("metrics", ABLATED)["dagster/data_version"] == version
    assert not layout.journal_of(fingerprint).exists()


def test_another_home_and_another_order_give_the_same_completions(
    swept: Swept, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    other = make_study(tmp_path / "other", tiny_checkpoint)
    with other.active():
        opened = other.opened()
        for cell in reversed(CELLS):
            ensure_completions(opened, cell, run_id="another run", log=lambda message: None)
    for cell in CELLS:
        fingerprint = opened.condition(cell).fingerprint
        assert fingerprint == swept.opened.condition(cell).fingerprint
        assert content(other.layout, fingerprint).equals(content(swept.study.layout, fingerprint))


def test_metadata_says_what_came_out(swept: Swept) -> None:
    schemas = {"generations": COMPLETIONS, "detections": DETECTIONS, "metrics": METRICS}
    for asset, schema in schemas.items():
        shown = swept.metadata(asset, ABLATED)["dagster/column_schema"].value
        assert isinstance(shown, dg.TableSchema)
        assert [column.name for column in shown.columns] == schema.names
        assert [column.constraints.nullable for column in shown.columns] == [field.nullable for field in schema]
    generations = swept.metadata("generations", ABLATED)
    assert generations["dagster/row_count"].value == 6
    assert generations["fingerprint"].value == swept.opened.condition(ABLATED).fingerprint
    # The run that generated the completions, whichever run materialized the cell last.
    assert generations["generated_by"].value == swept.results[ABLATED].run_id
    assert generations["components"].value == "attention.0, mlp.0"
    assert Path(str(generations["database"].value)) == swept.study.layout.database
    examples = str(swept.metadata("detections", ABLATED)["examples"].value)
    assert any(problem_id in examples for problem_id in swept.opened.problems)
    metrics = swept.metadata("metrics", ABLATED)
    assert "Strict rate" in str(metrics["rates"].value)
    strict_rate = metrics["strict_rate"].value
    assert isinstance(strict_rate, float)
    assert 0 <= strict_rate <= 1


def test_the_report_of_a_cell_is_linked_and_has_a_figure(swept: Swept) -> None:
    metadata = swept.metadata("condition_reports", ABLATED)
    path = Path(str(metadata["report"].value))
    assert path.is_relative_to(swept.study.layout.reports)
    assert "both_0" in path.read_text(encoding="utf-8")
    assert metadata["whole_sweep"].value == dg.AssetKey(["tiny", "phase2_report"])
    assert "](data:image/png;base64,iVBOR" in str(metadata["figure"].value)
    assert metadata["baseline"].value == "there"


def test_data_versions_say_which_completions_and_rules_a_cell_stands_on(swept: Swept) -> None:
    def versions(cell: Cell) -> dict[str, str]:
        return {asset: swept.tags(asset, cell)["dagster/data_version"] for asset in CELL_ASSETS}

    # The baseline of every subset is the same data; another condition is other data in each of its assets.
    assert versions(BASELINE) == versions(LINKED)
    assert all(versions(ABLATED)[asset] != versions(BASELINE)[asset] for asset in CELL_ASSETS)
    assert swept.tags("generations", ABLATED)["dagster/code_version"] == GENERATOR_VERSION
    # The code version of detections is their rules: other triggers make them stale in Dagster.
    assert swept.opened.rules_digest.startswith(swept.tags("detections", ABLATED)["dagster/code_version"])


def test_checks_are_recorded_by_cell_with_their_outcome(swept: Swept) -> None:
    stored = {
        (row["layer_subset"], row["scale"], row["asset"], row["name"]): row
        for row in queries.checks(swept.study.layout).to_pylist()
    }
    assert len(stored) == len(CELLS) * sum(len(names) for names in SPECS.values())
    for asset, names in SPECS.items():
        for name in names:
            key = dg.AssetCheckKey(dg.AssetKey(["tiny", asset]), name)
            history = swept.instance.event_log_storage.get_asset_check_execution_history(key, limit=100)
            evaluations = {}
            for record in reversed(history):
                assert record.event is not None
                assert record.event.dagster_event is not None
                evaluation = record.event.dagster_event.event_specific_data
                assert isinstance(evaluation, dg.AssetCheckEvaluation)
                evaluations[evaluation.partition] = evaluation
            assert set(evaluations) == {str(cell_key(cell)) for cell in CELLS}
            for cell in CELLS:
                row = stored[cell.layer_subset, cell.scale, asset, name]
                evaluation = evaluations[str(cell_key(cell))]
                assert (row["passed"], row["description"]) == (evaluation.passed, evaluation.description)


def test_checks_of_a_sound_cell_pass_and_a_model_that_cannot_count_gets_a_warning(swept: Swept) -> None:
    rows = [row for row in queries.checks(swept.study.layout).to_pylist() if row["layer_subset"] == "both_0"]
    passed = {(row["scale"], row["name"]): row["passed"] for row in rows}
    for name in ("exact_rows", "interventions_fired", "identity_at_scale_1", "finite_logits", "completions_vary"):
        assert passed[0.0, name]
        assert passed[1.0, name]
    # A random model's answers are no better than shuffled ones.
    assert not passed[1.0, "accuracy_above_shuffled"]


def test_lineage_names_the_sources_that_were_recorded(swept: Swept) -> None:
    for cell in CELLS:
        tags = swept.tags("generations", cell)
        for source in SOURCES:
            recorded = latest_data_version(swept.instance, dg.AssetKey(["tiny", source]), None)
            assert recorded is not None
            assert tags[_TAG + source] == recorded
        # Of a partitioned input Dagster records the digest of its partitions' versions: here of exactly one.
        subset = latest_data_version(swept.instance, dg.AssetKey(["tiny", "layer_subsets"]), cell.layer_subset)
        assert subset is not None
        assert tags[_TAG + "layer_subsets"] == sha256(subset.encode()).hexdigest()
    for upstream, asset in pairwise(CELL_ASSETS):
        version = swept.tags(upstream, ABLATED)["dagster/data_version"]
        assert swept.tags(asset, ABLATED)[_TAG + upstream] == sha256(version.encode()).hexdigest()


def test_sources_are_recorded_once_and_again_when_their_content_changes(tmp_path: Path, tiny_checkpoint: Path) -> None:
    study = make_study(tmp_path / "sources", tiny_checkpoint)
    keys = {name: dg.AssetKey(["tiny", name]) for name in SOURCES}
    with study.active(), open_instance() as instance:

        def versions() -> dict[str, str | None]:
            return {name: latest_data_version(instance, key, None) for name, key in keys.items()}

        n_subsets = len(study.experiment().all_subsets())
        assert record_sources(instance, study.opened()) == len(SOURCES) + n_subsets
        assert record_sources(instance, study.opened()) == 0
        before = versions()
        assert None not in before.values()

        study.problems.write_text(study.problems.read_text(encoding="utf-8").replace("1 + 1", "one + 1"))
        drawn_anew = {"count": 5}  # all of them, the changed one among them
        assert record_sources(instance, study.opened(problems=drawn_anew)) == 1
        after = versions()
        assert after["problems"] != before["problems"]
        assert after["model_checkpoint"] == before["model_checkpoint"]

        assert record_sources(instance, study.opened(problems=drawn_anew, sampling={"temperature": 0.5})) == 1
        assert versions()["sampling_settings"] != after["sampling_settings"]


def test_nothing_is_recorded_where_one_source_is_unfit(tmp_path: Path, tiny_checkpoint: Path) -> None:
    study = make_study(tmp_path / "unfit", tiny_checkpoint)
    with study.active(), open_instance() as instance:
        with pytest.raises(CheckpointError):
            record_sources(instance, study.opened(model={"path": str(tmp_path / "nowhere")}))
        assert latest_data_version(instance, dg.AssetKey(["tiny", "problems"]), None) is None


def test_a_failed_check_that_must_hold_fails_the_cell_and_names_it(tmp_path: Path, tiny_checkpoint: Path) -> None:
    study = make_study(tmp_path / "failing", tiny_checkpoint)
    with study.active(), open_instance() as instance:
        opened = study.opened()
        record_sources(instance, opened)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cells, "probe_identity", lambda opened, cell: Identity(8, 7, fired=True))
            result = run_cell(instance, opened.experiment, ABLATED)
        assert not result.success
        failed = result.failure_data_for_node("tiny__generations")
        assert failed is not None
        assert failed.user_failure_data is not None
        assert "Cell both_0 at 0 fails a check that must hold" in (failed.user_failure_data.description or "")
        assert "7 of 8 probed completions" in (failed.user_failure_data.description or "")
        # Not green: nothing of the cell is materialized, and the outcome stands in the database.
        assert result.get_asset_materialization_events() == []
        row = next(row for row in queries.checks(study.layout).to_pylist() if row["name"] == "identity_at_scale_1")
        assert (row["passed"], row["severity"]) == (False, "error")
        # The completions are kept: the next run links them, and looks again at what failed.
        assert queries.completion_counts(study.layout) == {opened.condition(ABLATED).fingerprint: 6}
        assert run_cell(instance, opened.experiment, ABLATED).success
        assert made_by(study, opened) == [result.run_id]
