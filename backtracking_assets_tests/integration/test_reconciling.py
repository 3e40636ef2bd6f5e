"""Dagster's record and the store: a new record shows what the store holds as the runs that made it would have."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from backtracking_assets.assets.jobs import CELL_ASSETS
from backtracking_assets.assets.page_files import report_path
from backtracking_assets.assets.reconciling import reconcile
from backtracking_assets.assets.sources import record_sources
from backtracking_assets.cli.instance import open_instance
from backtracking_assets.definitions import build_definitions
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.partitions import cell_key
from backtracking_assets.records import Cell
from backtracking_assets.storage.database import writing
from backtracking_assets_tests.integration.studies import QUIET, Study, make_study, run_cell

BASELINE, LINKED, ABLATED = Cell("attn_1", 1.0), Cell("both_0", 1.0), Cell("attn_1", 0.0)
CELLS = (BASELINE, LINKED, ABLATED)
PLAN = [{"layer_subsets": ["attn_1"]}, {"layer_subsets": ["both_0"], "scales": [1.0]}]
SWEEP_ASSETS = ("subset_sweep", "scale_sweep", "phase2_report")
ONLY_A_RUN_KNOWS = {"generated_now", "linked", "cell_pages_written_anew"}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Study:
    """A study that was swept by runs."""
    study = make_study(tmp_path_factory.mktemp("reconciling"), tiny_checkpoint)
    experiment = study.experiment(plan=PLAN)
    with study.active(), open_instance() as instance:
        record_sources(instance, study.opened(plan=PLAN))
        for cell in CELLS:
            assert run_cell(instance, experiment, cell).success
        for name in ("phase2_subset_sweep", "phase2_scale_sweep", "make_report_phase2"):
            job = build_definitions(experiment).resolve_job_def(name)
            assert job.execute_in_process(instance=instance, run_config=QUIET).success
    return study


@dataclass(frozen=True)
class Record:
    """A Dagster instance and the study whose store it shows."""

    study: Study
    instance: dg.DagsterInstance

    def reconcile(self):
        return reconcile(self.instance, self.study.opened(plan=PLAN))

    def events(self, asset: str, cell: Cell | None) -> list[dg.EventLogRecord]:
        """All materializations, the latest first."""
        partitions = None if cell is None else [cell_key(cell)]
        wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(["tiny", asset]), asset_partitions=partitions)
        return list(self.instance.fetch_materializations(wanted, limit=100).records)

    def latest(self, asset: str, cell: Cell | None) -> dg.AssetMaterialization:
        found = self.events(asset, cell)[0].asset_materialization
        assert found is not None
        return found

    def observations(self, asset: str, cell: Cell) -> list[dg.EventLogRecord]:
        wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(["tiny", asset]), asset_partitions=[cell_key(cell)])
        return list(self.instance.fetch_observations(wanted, limit=100).records)

    def staleness(self) -> dict[tuple[str, Cell | None], StaleStatus]:
        """As the web server computes it."""
        graph = build_definitions(self.study.experiment(plan=PLAN)).resolve_asset_graph()
        resolver = CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance))
        return {
            (asset, cell): resolver.get_status(
                dg.AssetKey(["tiny", asset]), None if cell is None else str(cell_key(cell))
            )
            for asset, cell in EVERYTHING
        }


EVERYTHING: list[tuple[str, Cell | None]] = [
    *((asset, cell) for asset in CELL_ASSETS for cell in CELLS),
    *((asset, None) for asset in SWEEP_ASSETS),
]


@pytest.fixture
def native(template: Study) -> Iterator[Record]:
    with template.active(), open_instance() as instance:
        yield Record(template, instance)


@pytest.fixture(scope="module")
def reconciled_home(template: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dagster's folder after a reconciliation with this store."""
    home = tmp_path_factory.mktemp("reconciled")
    with template.active(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(home))
        with open_instance() as instance:
            assert set(Record(template, instance).reconcile().recorded) == set(EVERYTHING)
    return home


@pytest.fixture
def reconciled(
    template: Study, reconciled_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Record]:
    """The store, and a Dagster instance that was reconciled with it."""
    shutil.copytree(reconciled_home, tmp_path / "reconciled_home")
    with template.active():
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "reconciled_home"))
        with open_instance() as instance:
            yield Record(template, instance)


@pytest.fixture
def fresh(template: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    """The same store, and a Dagster instance that knows nothing of it."""
    with template.active():
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "another_home"))
        with open_instance() as instance:
            yield Record(template, instance)


def test_a_record_made_by_runs_agrees_already(native: Record) -> None:
    result = native.reconcile()
    assert (result.sources, result.recorded, result.strays) == (0, [], [])
    assert set(native.staleness().values()) == {StaleStatus.FRESH}


def test_a_new_record_shows_everything_as_the_runs_did(native: Record, fresh: Record) -> None:
    assert set(fresh.staleness().values()) == {StaleStatus.MISSING}
    result = fresh.reconcile()
    assert set(result.recorded) == set(EVERYTHING)
    assert result.sources == 3 + 3
    assert result.strays == []
    assert set(fresh.staleness().values()) == {StaleStatus.FRESH}
    for asset, cell in EVERYTHING:
        ours, theirs = fresh.latest(asset, cell), native.latest(asset, cell)
        pointers = {tag for tag in theirs.tags or {} if tag.startswith("dagster/input_event_pointer/")}
        assert set(ours.tags or {}) == set(theirs.tags or {})
        for tag, value in (theirs.tags or {}).items():
            assert tag in pointers or (ours.tags or {})[tag] == value, (asset, tag)
        assert ours.partition == theirs.partition
        assert set(ours.metadata) == set(theirs.metadata) - ONLY_A_RUN_KNOWS
        for name, value in ours.metadata.items():
            assert value == theirs.metadata[name], (asset, name)
        assert fresh.events(asset, cell)[0].run_id == ""


def test_event_pointers_lead_to_the_inputs(reconciled: Record) -> None:
    for asset, upstream in zip(CELL_ASSETS[1:], CELL_ASSETS, strict=False):
        for cell in CELLS:
            pointer = (reconciled.latest(asset, cell).tags or {})[f"dagster/input_event_pointer/tiny/{upstream}"]
            assert int(pointer) == reconciled.events(upstream, cell)[0].storage_id


def test_a_second_time_there_is_nothing_to_record(reconciled: Record) -> None:
    again = reconciled.reconcile()
    assert (again.sources, again.recorded, again.strays) == (0, [], [])


def test_a_run_goes_on_from_a_reconciled_record(reconciled: Record) -> None:
    result = run_cell(reconciled.instance, reconciled.study.experiment(plan=PLAN), ABLATED)
    assert result.success
    assert reconciled.events("generations", ABLATED)[0].run_id == result.run_id
    assert reconciled.latest("generations", ABLATED).metadata["generated_now"].value == 0
    assert {status for (_, cell), status in reconciled.staleness().items() if cell} == {StaleStatus.FRESH}
    assert [made for made in reconciled.reconcile().recorded if made[1] is not None] == []


def test_an_event_of_another_version_is_superseded(reconciled: Record) -> None:
    reconciled.instance.report_runless_asset_event(
        dg.AssetMaterialization(
            asset_key=dg.AssetKey(["tiny", "metrics"]),
            partition=cell_key(ABLATED),
            tags={"dagster/data_version": "another", "dagster/code_version": "1"},
        )
    )
    assert reconciled.staleness()["condition_reports", ABLATED] == StaleStatus.STALE
    assert ("metrics", ABLATED) in reconciled.reconcile().recorded
    assert set(reconciled.staleness().values()) == {StaleStatus.FRESH}
    assert len(reconciled.events("metrics", ABLATED)) == 3


def test_what_lies_below_a_wiped_asset_does_not_look_stale(reconciled: Record) -> None:
    reconciled.instance.wipe_assets([dg.AssetKey(["tiny", "generations"])])
    recorded = reconciled.reconcile().recorded
    assert {("generations", cell) for cell in CELLS} <= set(recorded)
    assert set(reconciled.staleness().values()) == {StaleStatus.FRESH}
    assert reconciled.reconcile().recorded == []


def test_what_the_store_does_not_hold_is_marked_once_and_no_event_is_removed(reconciled: Record) -> None:
    database, away = reconciled.study.layout.database, reconciled.study.home / "away.duckdb"
    page, page_away = report_path(reconciled.study.opened(plan=PLAN), ABLATED), reconciled.study.home / "away.html"
    database.rename(away)
    try:
        strays = reconciled.reconcile().strays
        marked = [(stray.asset, stray.cell) for stray in strays if stray.cell is not None]
        assert set(marked) == {(asset, cell) for asset in CELL_ASSETS for cell in CELLS}
        assert {stray.asset for stray in strays if stray.cell is None} == {"subset_sweep", "scale_sweep"}
        assert "does not hold" in str(strays[0])
        assert reconciled.reconcile().strays == strays
        for asset, cell in marked:
            assert cell is not None
            (observation,) = reconciled.observations(asset, cell)
            assert observation.asset_observation is not None
            assert "does not hold" in (observation.asset_observation.description or "")
            assert len(reconciled.events(asset, cell)) == 1
    finally:
        away.rename(database)
    # It is there again: the mark must not stay the last word.
    recorded = reconciled.reconcile().recorded
    assert {made for made in recorded if made[1] is not None} == set(marked)
    assert set(reconciled.staleness().values()) == {StaleStatus.FRESH}
    page.rename(page_away)
    try:
        assert [(stray.asset, stray.cell) for stray in reconciled.reconcile().strays] == [
            ("condition_reports", ABLATED)
        ]
    finally:
        page_away.rename(page)


def test_an_older_store_is_told_from_a_stale_one(reconciled: Record) -> None:
    # Other settings make the cells stale, in Dagster by their sources: record and store agree all the same.
    changed = reconciled.study.opened(plan=PLAN, sampling={"seed": 8})
    result = reconcile(reconciled.instance, changed)
    assert result.sources == 1
    assert (result.recorded, result.strays) == ([], [])
    assert reconciled.staleness()["generations", ABLATED] == StaleStatus.STALE
    # Something that the store never held.
    reconciled.instance.report_runless_asset_event(
        dg.AssetMaterialization(
            asset_key=dg.AssetKey(["tiny", "generations"]),
            partition=cell_key(ABLATED),
            tags={"dagster/data_version": "newer"},
        )
    )
    (stray,) = reconcile(reconciled.instance, changed).strays
    assert (stray.asset, stray.cell) == ("generations", ABLATED)
    assert "another version" in stray.reason


def test_a_cell_that_fails_a_check_is_not_recorded(fresh: Record) -> None:
    def set_passed(passed: bool) -> None:
        with writing(fresh.study.layout) as connection:
            connection.execute(
                "update checks set passed = ? where layer_subset = ? and scale = ? and name = 'exact_rows'",
                [passed, ABLATED.layer_subset, ABLATED.scale],
            )

    set_passed(False)
    try:
        assert {cell for _, cell in fresh.reconcile().recorded} == {BASELINE, LINKED, None}
    finally:
        set_passed(True)


def test_without_its_sources_nothing_is_recorded(fresh: Record) -> None:
    gone = fresh.study.opened(plan=PLAN, model={"path": str(fresh.study.home / "nowhere")})
    with pytest.raises(BacktrackingError, match="nowhere"):
        reconcile(fresh.instance, gone)
    fresh.study.experiment(plan=PLAN)
    assert fresh.events("generations", None) == []
