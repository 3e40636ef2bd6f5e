"""Fifty kills over the whole study of the organism, each of a process as a shell starts it: half an hour."""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.experiment_file import load_experiment
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets_tests.chaos.harness import differences, generated_again, outcome_of, unfinished_runs_of

KILLS = 50
COMMAND = (sys.executable, "-c", "from backtracking_assets.cli import main; main()", "sweep", "organism")


def environment_of(home: Path) -> dict[str, str]:
    return {
        "BACKTRACKING_HOME": str(home / "runs"),
        "DAGSTER_HOME": str(home / "dagster_home"),
        "BACKTRACKING_DEVICE_LOCKS": str(home / "device_locks"),
        "BACKTRACKING_FAULT_LOG": str(home / "points.log"),
        "BACKTRACKING_CPU_DEVICES": "1",  # a kill costs a chunk a device
    }


def start(home: Path) -> subprocess.Popen:
    home.mkdir(exist_ok=True)
    with (home / "sweep.log").open("ab") as log:
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), **environment_of(home)}
        return subprocess.Popen(COMMAND, env=environment, stdout=log, stderr=log, start_new_session=True)


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_a_whole_sweep_survives_fifty_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed, fired_at = tmp_path / "undisturbed", tmp_path / "fired_at"
    assert start(undisturbed).wait() == 0
    moments, killed = random.Random(50), 0
    while killed < KILLS:
        process = start(fired_at)
        try:
            assert process.wait(moments.uniform(1, 14)) == 0, (fired_at / "sweep.log").read_text(encoding="utf-8")
            break  # done before its moment came
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
    assert start(fired_at).wait() == 0
    again = generated_again(fired_at / "points.log")
    print(f"\n{killed} kills, {again} chunks generated twice")
    assert killed == KILLS
    assert again <= killed
    found = []
    for home in (undisturbed, fired_at):
        for name, value in environment_of(home).items():
            monkeypatch.setenv(name, value)
        found.append(outcome_of(load_experiment("organism"), StoreLayout(home / "runs" / "organism")))
        assert unfinished_runs_of() == []
    assert differences(*found) == []
    opened = OpenExperiment(load_experiment("organism"))
    n_completions = Counter(found[0].tables["completions"]["fingerprint"].to_pylist())
    conditions = {opened.condition(cell).fingerprint for cell in opened.experiment.planned_cells()}
    assert len(conditions) == 51
    assert all(n_completions[fingerprint] >= opened.experiment.completions_per_cell for fingerprint in conditions)
