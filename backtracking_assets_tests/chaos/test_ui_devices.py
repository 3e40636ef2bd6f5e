"""The real UI on a CPU that is lent as two devices: two runs generate at once, one on each; a third has only begun."""

from pathlib import Path

import pytest

from backtracking_assets.assets.jobs import CELL_ASSETS
from backtracking_assets.execution.run_tags import DEVICE_TAG
from backtracking_assets.storage import queries
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets_tests.chaos.ui_tree import Run, running_ui, wait_until

CELLS = ("attn_27_only|0.0", "attn_27_only|1.0", "mlp_27_only|0.0", "attn_27_only|0.5")
KEYS = [("organism", name) for name in CELL_ASSETS]
IN_PROGRESS = ("STARTING", "STARTED", "CANCELING")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_runs_at_once_a_third_begins_and_a_fourth_waits_in_the_queue(tmp_path: Path) -> None:
    environment = {
        "BACKTRACKING_HOME": str(tmp_path / "runs"),
        "DAGSTER_HOME": str(tmp_path / "dagster_home"),
        "BACKTRACKING_DEVICE_LOCKS": str(tmp_path / "device_locks"),
        "BACKTRACKING_CPU_DEVICES": "2",
        "HOME": str(tmp_path),
    }
    seen: list[list[Run]] = []
    with running_ui(environment, tmp_path / "ui.log") as ui:

        def look() -> bool:
            seen.append(ui.runs())
            return len(seen[-1]) == len(CELLS) and all(run.status == "SUCCESS" for run in seen[-1])

        ui.backfill(KEYS, CELLS)
        wait_until(look, 800, "all cells are done")
    at_work = [[run for run in runs if run.status in IN_PROGRESS] for runs in seen]
    assert max(len(runs) for runs in at_work) == 3
    devices = [sorted(run.tags[DEVICE_TAG] for run in runs if DEVICE_TAG in run.tags) for runs in at_work]
    assert ["cpu:0", "cpu:1"] in devices
    assert all(len(set(held)) == len(held) for held in devices)
    assert any(len(runs) == 3 and any(run.status == "QUEUED" for run in seen[i]) for i, runs in enumerate(at_work))
    layout = StoreLayout(tmp_path / "runs" / "organism")
    assert queries.cells(layout)["n_completions"].to_pylist() == [480] * len(CELLS)
