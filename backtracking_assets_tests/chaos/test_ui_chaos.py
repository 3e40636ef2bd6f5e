"""The whole UI dies in the middle of a backfill of the organism; started again, it goes on with what is missing."""

from collections import Counter
from pathlib import Path

import pytest

from backtracking_assets.assets.jobs import CELL_ASSETS
from backtracking_assets.storage import queries
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets_tests.chaos.harness import generated_again
from backtracking_assets_tests.chaos.ui_tree import Ui, running_ui, wait_until

CELLS = ("attn_27_only|0.0", "attn_27_only|1.0", "attn_no_early|0.0", "mlp_27_only|0.0")
KEYS = [("organism", name) for name in CELL_ASSETS]
ENDED = ("COMPLETED_SUCCESS", "COMPLETED_FAILED", "COMPLETED", "FAILED", "CANCELED")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "BACKTRACKING_HOME": str(tmp_path / "runs"),
        "DAGSTER_HOME": str(tmp_path / "dagster_home"),
        "BACKTRACKING_DEVICE_LOCKS": str(tmp_path / "device_locks"),
        "BACKTRACKING_FAULT_LOG": str(tmp_path / "points.log"),
        "BACKTRACKING_CPU_DEVICES": "1",  # a kill costs a chunk a device
        "HOME": str(tmp_path),
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_backfill_goes_on_after_the_whole_tree_was_killed(tmp_path: Path, environment: dict[str, str]) -> None:
    layout, log = StoreLayout(tmp_path / "runs" / "organism"), tmp_path / "ui.log"
    with running_ui(environment, log) as ui:
        backfill = ui.backfill(KEYS, CELLS)
        wait_until(lambda: _one_done_and_one_at_work(ui, layout), 300, "a cell is done and another half done")
        done = {run.partition for run in ui.runs() if run.status == "SUCCESS"}
        died = {run.run_id for run in ui.runs() if run.status == "STARTED"}
        assert ui.kill() > 4  # web server, daemon, code servers, a run
    with running_ui(environment, log) as ui:
        wait_until(lambda: ui.backfill_status(backfill) in ENDED, 400, "the backfill has ended")
        assert ui.backfill_status(backfill) == "COMPLETED_SUCCESS"
        runs = ui.runs()
    assert {run.run_id: run.status for run in runs if run.run_id in died} == dict.fromkeys(died, "FAILURE")
    attempts = Counter(run.partition for run in runs)
    assert set(attempts) == set(CELLS)
    assert {attempts[cell] for cell in done} == {1}  # what was done is not done again
    assert max(attempts.values()) == 2  # the run that died and its one retry
    assert generated_again(tmp_path / "points.log") <= 1
    assert queries.cells(layout)["n_completions"].to_pylist() == [480] * len(CELLS)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_only_failed_cells_are_relaunched(tmp_path: Path, environment: dict[str, str]) -> None:
    """A run that dies twice is not tried a third time; from failure, its cell alone runs again."""
    dying = {**environment, "BACKTRACKING_FAULT": "chunk started"}  # of every run that generates
    layout, log = StoreLayout(tmp_path / "runs" / "organism"), tmp_path / "ui.log"
    with running_ui(environment, log) as ui:
        first = ui.backfill(KEYS, CELLS[1:2])
        wait_until(lambda: ui.backfill_status(first) in ENDED, 300, "the baseline is there")
    with running_ui(dying, log) as ui:
        backfill = ui.backfill(KEYS, CELLS[:2])
        wait_until(lambda: ui.backfill_status(backfill) in ENDED, 400, "the backfill has ended")
        attempts = Counter(run.partition for run in ui.runs() if run.tags.get("dagster/backfill") == backfill)
        assert attempts == {CELLS[0]: 2, CELLS[1]: 1}  # the one that dies and its one retry; the baseline is there
    with running_ui(environment, log) as ui:
        again = ui.relaunch_failed(backfill)
        wait_until(lambda: ui.backfill_status(again) in ENDED, 300, "the relaunched backfill has ended")
        assert ui.backfill_status(again) == "COMPLETED_SUCCESS"
        relaunched = {run.partition for run in ui.runs() if run.tags.get("dagster/backfill") == again}
    assert relaunched == {CELLS[0]}
    assert generated_again(tmp_path / "points.log") == 2
    assert queries.cells(layout)["n_completions"].to_pylist() == [480, 480]


def _one_done_and_one_at_work(ui: Ui, layout: StoreLayout) -> bool:
    statuses = Counter(run.status for run in ui.runs())
    return statuses["SUCCESS"] >= 1 and statuses["STARTED"] >= 1 and any(layout.journal.glob("*/*.parquet"))
