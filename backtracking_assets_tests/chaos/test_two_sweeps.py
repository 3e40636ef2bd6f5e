"""Two sweeps of one store at once share the cells: nothing is made or written twice."""

from collections import Counter
from pathlib import Path

import dagster as dg
import pytest

from backtracking_assets_tests.chaos.harness import differences, outcome, unfinished_runs
from backtracking_assets_tests.integration.processes import backtracking, start_backtracking
from backtracking_assets_tests.integration.studies import Study, make_study


@pytest.fixture
def study(tmp_path: Path, tiny_checkpoint: Path) -> Study:
    return make_study(tmp_path / "study", tiny_checkpoint)


def test_two_sweeps_share_the_work(tmp_path: Path, tiny_checkpoint: Path, study: Study) -> None:
    running = []
    for number in (1, 2):
        folder = tmp_path / f"streams_{number}"
        folder.mkdir()
        environment = {
            **study.environment,
            # A device each, as on a machine with two GPUs; otherwise the second would wait for the first to end.
            "BACKTRACKING_DEVICE_LOCKS": str(tmp_path / f"locks_{number}"),
            "BACKTRACKING_FAULT_LOG": str(tmp_path / "points.log"),
        }
        running.append(start_backtracking("sweep", str(study.file), environment=environment, folder=folder))
    ended = [command.wait() for command in running]
    assert [end.code for end in ended] == [0, 0], [end.stdout + end.stderr for end in ended]

    lines = [line.split("\t") for line in (tmp_path / "points.log").read_text(encoding="utf-8").splitlines()]
    for point in ("chunk started", "detections written", "metrics written", "comparisons written"):
        times = Counter(detail for _, reached, detail in lines if reached == point)
        assert set(times.values()) == {1}, point

    alone = make_study(tmp_path / "alone", tiny_checkpoint)
    assert backtracking("sweep", str(alone.file), environment=alone.environment, folder=tmp_path).code == 0
    assert differences(outcome(alone), outcome(study)) == []
    assert unfinished_runs(study) == []
    with study.active(), dg.DagsterInstance.get() as instance:
        cells = Counter(run.tags.get("dagster/partition") for run in instance.get_runs())
    assert {cell: n for cell, n in cells.items() if cell is not None and n > 1} == {}
