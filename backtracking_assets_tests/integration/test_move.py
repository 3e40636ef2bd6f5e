"""The move from one machine to another, end to end: half a sweep here, the other half there."""

import json
import shutil
from pathlib import Path

import dagster as dg
import pytest

from backtracking_assets.assets.jobs import CELL_ASSETS
from backtracking_assets_tests.chaos.harness import differences, generated_again, outcome
from backtracking_assets_tests.integration.processes import Finished, backtracking
from backtracking_assets_tests.integration.studies import Study, make_study


@pytest.fixture
def here(tmp_path: Path, tiny_checkpoint: Path) -> Study:
    return make_study(tmp_path / "here", tiny_checkpoint)


def run(study: Study, folder: Path, *arguments: str) -> Finished:
    environment = {**study.environment, "BACKTRACKING_FAULT_LOG": str(folder / "points.log")}
    finished = backtracking(*arguments, environment=environment, folder=folder)
    assert finished.code == 0, finished.stdout + finished.stderr
    return finished


def states(study: Study, folder: Path) -> dict[str, int]:
    return json.loads(run(study, folder, "status", str(study.file), "--json").stdout)["counts"]


def recorded(study: Study) -> dict[str, set[str]]:
    """Cells that Dagster shows as materialized, by asset."""
    with study.active(), dg.DagsterInstance.get() as instance:
        return {name: instance.get_materialized_partitions(dg.AssetKey(["tiny", name])) for name in CELL_ASSETS}


@pytest.mark.slow
def test_half_a_sweep_here_and_half_there_equals_one_in_place(
    tmp_path: Path, tiny_checkpoint: Path, here: Study
) -> None:
    bundle = str(tmp_path / "bundle")
    run(here, tmp_path, "sweep", str(here.file), "--layer-subset", "attn_1")
    run(here, tmp_path, "push", bundle, str(here.file))
    half = states(here, tmp_path)

    there = make_study(tmp_path / "there", tiny_checkpoint)
    assert states(there, tmp_path)["done"] == 0
    pulled = run(there, tmp_path, "pull", bundle, str(there.file))
    # One more than here: a second subset's cell at scale 1.0 shares completions that are there.
    assert half["done"] == 2
    assert "Done: 3 of 5 cells" in pulled.stdout
    assert states(there, tmp_path)["done"] == 3
    assert all(recorded(there)[name] > cells for name, cells in recorded(here).items())
    shutil.rmtree(here.home)  # the machine is gone

    rest = run(there, tmp_path, "sweep", str(there.file))
    assert "3 done before, 2 to do." in rest.stdout
    assert generated_again(tmp_path / "points.log") == 0
    assert states(there, tmp_path)["done"] == 5

    alone = make_study(tmp_path / "alone", tiny_checkpoint)
    backtracking("sweep", str(alone.file), environment=alone.environment, folder=tmp_path)
    # The identity probe of a pulled cell belongs to the machine that is gone; its next run here would make it anew.
    one, other = outcome(alone), outcome(there)
    found = differences(one, other)
    assert found == ["checks"], found
    missing = set(one.tables["checks"].to_pandas().itertuples(index=False)) - set(
        other.tables["checks"].to_pandas().itertuples(index=False)
    )
    assert {(row.layer_subset, row.name) for row in missing} == {
        ("attn_1", "identity_at_scale_1"),
        ("both_0", "identity_at_scale_1"),
    }
