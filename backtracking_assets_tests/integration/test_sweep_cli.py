"""`backtracking sweep`, `status` and `report` as a person meets them: one study from nothing to done and changed."""

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from backtracking_assets.experiment import scale_key
from backtracking_assets.storage import queries
from backtracking_assets_tests.integration.processes import Finished, backtracking, start_backtracking
from backtracking_assets_tests.integration.studies import Study, make_study

N_CELLS = 4
PLAN = [
    {"layer_subsets": ["attn_1"]},
    {"layer_subsets": ["both_0"], "scales": [1.0]},
    {"layer_subsets": ["random"], "scales": [0.0]},
]


@dataclass(frozen=True)
class Story:
    """What each command said, in the order in which the commands ran."""

    study: Study
    status_before: dict[str, Any]
    first_cell: Finished
    status_half_way: dict[str, Any]
    partial_report: Finished
    partial_page: str
    rest: Finished
    status_after: dict[str, Any]
    status_table: Finished
    whole_page: str
    completions: dict[str, pa.Table]
    again: Finished
    completions_again: dict[str, pa.Table]
    status_other_triggers: dict[str, Any]
    other_triggers: Finished
    status_at_the_end: dict[str, Any]
    completions_at_the_end: dict[str, pa.Table]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Story:
    folder = tmp_path_factory.mktemp("streams")
    study = make_study(tmp_path_factory.mktemp("study"), tiny_checkpoint)
    study.experiment(plan=PLAN)
    file = str(study.file)

    def run(command: str, *options: str) -> Finished:
        return backtracking(command, file, *options, environment=study.environment, folder=folder)

    def status() -> dict[str, Any]:
        found = run("status", "--json")
        assert found.code == 0, found.stderr
        return json.loads(found.stdout)

    def completions() -> dict[str, pa.Table]:
        counts = queries.completion_counts(study.layout)
        return {fingerprint: queries.completions(study.layout, fingerprint) for fingerprint in counts}

    steps: dict[str, Any] = {"study": study}
    steps["status_before"] = status()
    steps["first_cell"] = run("sweep", "--layer-subset", "attn_1", "--scale", "1.0")
    steps["status_half_way"] = status()
    steps["partial_report"] = run("report")
    steps["partial_page"] = (study.layout.reports / "phase2_report.html").read_text(encoding="utf-8")
    steps["rest"] = run("sweep")
    steps["status_after"] = status()
    steps["status_table"] = run("status")
    steps["whole_page"] = (study.layout.reports / "phase2_report.html").read_text(encoding="utf-8")
    steps["completions"] = completions()
    steps["again"] = run("sweep")
    steps["completions_again"] = completions()
    study.experiment(plan=PLAN, detection={"strict": ["Wait", "Hmm"]})
    steps["status_other_triggers"] = status()
    steps["other_triggers"] = run("sweep")
    steps["status_at_the_end"] = status()
    steps["completions_at_the_end"] = completions()
    return Story(**steps)


def states(status: dict[str, Any]) -> dict[tuple[str, float], str]:
    return {(cell["layer_subset"], cell["scale"]): cell["state"] for cell in status["cells"]}


def test_status_of_a_new_study_is_all_missing(story: Story) -> None:
    status = story.status_before
    assert status["experiment"] == "tiny"
    assert status["completions_per_cell"] == 6
    assert status["counts"] == {"done": 0, "partial": 0, "stale": 0, "missing": N_CELLS, "waiting": 0}
    assert list(states(status)) == [
        ("attn_1", 0.0),
        ("attn_1", 1.0),
        ("both_0", 1.0),
        ("random_1_of_attn_1", 0.0),
    ]
    assert all((cell["completions"], cell["planned"]) == (0, 6) for cell in status["cells"])


def test_filters_leave_one_cell_to_do(story: Story) -> None:
    assert story.first_cell.code == 0, story.first_cell.stderr
    assert "1 cells of 6 completions, 0 done before, 1 to do." in story.first_cell.stdout
    assert states(story.status_half_way)["attn_1", 1.0] == "done"
    assert story.status_half_way["counts"]["done"] == 1


def test_status_half_way_sees_the_baseline_of_another_subset(story: Story) -> None:
    """Scale 1.0 of the second subset is the same condition: its completions are there, the cell is not linked."""
    cells = {(cell["layer_subset"], cell["scale"]): cell for cell in story.status_half_way["cells"]}
    assert cells["both_0", 1.0]["state"] == "partial"
    assert cells["both_0", 1.0]["completions"] == 6
    assert cells["both_0", 1.0]["reason"] == "the completions are there, the cell is not linked to them"
    assert cells["random_1_of_attn_1", 0.0]["reason"] == "nothing is there"


def test_a_partial_report_names_what_is_missing(story: Story) -> None:
    assert story.partial_report.code == 0, story.partial_report.stderr
    assert story.partial_report.stdout == f"{story.study.layout.reports / 'phase2_report.html'}\n"
    assert "both_0" in story.partial_page
    assert "missing" in story.partial_page.lower()
    assert "1 of 4" in story.partial_page


def test_sweep_prints_the_table_and_where_the_report_lies(story: Story) -> None:
    assert story.rest.code == 0, story.rest.stderr
    assert "4 cells of 6 completions, 1 done before, 3 to do." in story.rest.stdout
    for name in ("attn_1", "both_0", "random_1_of_attn_1"):
        assert name in story.rest.stdout
    report = story.study.layout.reports / "phase2_report.html"
    assert f"Report: {report}\n" in story.rest.stdout
    assert report.is_file()
    assert story.rest.stderr == ""


def test_status_of_a_swept_study_is_all_done(story: Story) -> None:
    assert story.status_after["counts"] == {"done": N_CELLS, "partial": 0, "stale": 0, "missing": 0, "waiting": 0}
    assert all(cell["reason"] == "" for cell in story.status_after["cells"])
    assert story.status_table.code == 0
    assert story.status_table.stdout.endswith("4 done.\n")
    assert "Comparisons (subset_sweep, scale_sweep): current." in story.status_table.stdout
    report = story.status_after["report"]
    assert (report["cells"], report["page"]["state"], report["subset_sweep"]["state"]) == (
        N_CELLS,
        "current",
        "current",
    )
    assert f"Report (phase2_report): current; the digest of the cells that are done is {report['cells_digest']}." in (
        story.status_table.stdout
    )


def test_the_page_names_the_cells_that_it_was_made_from(story: Story) -> None:
    assert f"made from 4 cells with the digest <code>{story.status_after['report']['cells_digest']}" in story.whole_page
    # A report of the first cell alone, written before the others were there.
    before = story.status_half_way["report"]
    assert (before["cells"], before["page"]["state"]) == (1, "current")
    assert before["cells_digest"] in story.partial_page
    assert story.status_before["report"]["page"]["state"] == "missing"
    assert story.status_before["report"]["subset_sweep"]["state"] == "missing"


def test_every_cell_has_a_page(story: Story) -> None:
    pages = {
        path.relative_to(story.study.layout.reports / "cells")
        for path in story.study.layout.reports.rglob("scale_*.html")
    }
    assert pages == {Path(name) / f"scale_{scale_key(scale)}.html" for name, scale in states(story.status_after)}


def test_a_second_sweep_has_nothing_to_do(story: Story) -> None:
    assert story.again.code == 0
    assert "4 cells of 6 completions, 4 done before, 0 to do." in story.again.stdout
    assert "Generating" not in story.again.stdout
    assert story.completions_again == story.completions
    assert set(story.completions) == {row["fingerprint"] for row in queries.cells(story.study.layout).to_pylist()}


def test_other_triggers_make_every_cell_stale_and_nothing_is_generated_again(story: Story) -> None:
    counts = story.status_other_triggers["counts"]
    assert counts == {"done": 0, "partial": 0, "stale": N_CELLS, "missing": 0, "waiting": 0}
    assert {cell["reason"] for cell in story.status_other_triggers["cells"]} == {"detection: strict triggers +Hmm"}
    assert {cell["next"] for cell in story.status_other_triggers["cells"]} == {"reads anew"}
    assert story.other_triggers.code == 0, story.other_triggers.stderr
    assert "0 done before, 4 to do." in story.other_triggers.stdout
    assert "Nothing to generate." in story.other_triggers.stdout
    assert story.status_at_the_end["counts"]["done"] == N_CELLS
    # Equal to the last column: the runs that generated them are those of the first sweeps.
    assert story.completions_at_the_end == story.completions


def test_other_statistics_make_cells_stale(tmp_path: Path, story: Story) -> None:
    story.study.experiment(plan=PLAN, detection={"strict": ["Wait", "Hmm"]}, statistics={"confidence": 0.8})
    found = backtracking(
        "status", str(story.study.file), "--json", environment=story.study.environment, folder=tmp_path
    )
    status = json.loads(found.stdout)
    assert status["counts"]["stale"] == N_CELLS
    assert {cell["reason"] for cell in status["cells"]} == {"statistics: confidence 0.95 → 0.8"}
    assert {cell["next"] for cell in status["cells"]} == {"measures anew"}
    # What was made from the cells says that it is older than they are.
    assert status["report"]["page"]["state"] == status["report"]["subset_sweep"]["state"] == "older"
    assert status["report"]["page"]["cells_changed"] == N_CELLS


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_keeps_finished_chunks_and_the_next_sweep_goes_on(
    tmp_path: Path, tiny_checkpoint: Path, number: signal.Signals, code: int
) -> None:
    study = make_study(tmp_path / "study", tiny_checkpoint)
    study.experiment(
        problems={"count": 5, "samples": 20}, sampling={"max_new_tokens": 40}, generation={"completions_per_chunk": 5}
    )
    one_cell = ("sweep", str(study.file), "--layer-subset", "attn_1", "--scale", "0")
    running = start_backtracking(*one_cell, environment=study.environment, folder=tmp_path)
    deadline = time.monotonic() + 60
    while len(list(study.layout.journal.glob("*/*.parquet"))) < 2:
        assert time.monotonic() < deadline
        assert running.process.is_alive()
        time.sleep(0.02)
    assert running.process.pid is not None
    os.kill(running.process.pid, number)
    stopped = running.wait()
    assert stopped.code == code
    assert "Stopped" in stopped.stdout
    assert "goes on with what is missing" in stopped.stdout
    assert "Traceback" not in stopped.stdout + stopped.stderr

    found = backtracking("status", str(study.file), "--json", environment=study.environment, folder=tmp_path)
    cell = json.loads(found.stdout)["cells"][0]
    assert cell["state"] == "partial"
    assert 10 <= cell["completions"] < 100
    assert cell["reason"] == f"{cell['completions']} of 100 completions are there"

    finished = backtracking(*one_cell, environment=study.environment, folder=tmp_path)
    assert finished.code == 0, finished.stderr
    (fingerprint,) = queries.completion_counts(study.layout)
    runs = queries.completions(study.layout, fingerprint)["run_id"].value_counts().to_pylist()
    assert sorted(row["counts"] for row in runs) == sorted([cell["completions"], 100 - cell["completions"]])


def test_a_failing_baseline_gives_exit_code_1_and_stops_the_sweep(tmp_path: Path, tiny_checkpoint: Path) -> None:
    study = make_study(tmp_path / "study", tiny_checkpoint)
    study.experiment(checks={"accuracy_above_shuffled": "block"})  # which a random model cannot pass
    found = backtracking(
        "sweep", str(study.file), "--layer-subset", "attn_1", environment=study.environment, folder=tmp_path
    )
    assert found.code == 1
    assert (
        "Failed: attn_1 at 1: Cell attn_1 at 1 fails a check that must hold. accuracy_above_shuffled: " in found.stdout
    )
    assert "Not started, since each is compared with the baseline: 1 cells" in found.stdout
    assert "Traceback" not in found.stdout + found.stderr
    status = backtracking("status", str(study.file), "--json", environment=study.environment, folder=tmp_path)
    cells = states(json.loads(status.stdout))
    assert cells["attn_1", 1.0] != "done"  # the next sweep tries it again
    assert cells["attn_1", 0.0] == "missing"  # there is nothing to compare it with
