"""Importing a run: into the database, onto the pages, again, after a crash, and after a rebuild."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from backtracking_assets.assets.imported_contents import published_section, write_imported_report
from backtracking_assets.assets.importing import Imported, import_run
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.cli.import_run import run_import
from backtracking_assets.errors import RunFolderError
from backtracking_assets.experiment import Experiment
from backtracking_assets.records import Cell
from backtracking_assets.reporting.sweep_report import render_sweep_report
from backtracking_assets.storage.imported_runs import RUNS, imported_rows, restore_runs, selection_of
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.tables import TABLES
from backtracking_assets_tests.unit.reporting_samples import sweep_report
from backtracking_assets_tests.unit.run_folder_samples import event_rows, write_csv, write_phase1, write_phase2

IMPORTED = [name for name in TABLES if name.startswith("imported_")]


@pytest.fixture
def layout(tiny_experiment: Experiment) -> StoreLayout:
    layout = StoreLayout(tiny_experiment.outputs_dir())
    layout.prepare()
    return layout


def _rows(layout: StoreLayout) -> dict[str, list[dict]]:
    return {name: imported_rows(layout, name) for name in IMPORTED}


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _both(layout: StoreLayout, experiment: Experiment, tmp_path: Path) -> Imported:
    import_run(layout, experiment, write_phase1(tmp_path / "one"))
    return import_run(layout, experiment, write_phase2(tmp_path / "two"))


def test_importing_again_gives_the_same_rows_and_files(
    layout: StoreLayout, tiny_experiment: Experiment, tmp_path: Path
) -> None:
    _both(layout, tiny_experiment, tmp_path)
    rows, files = _rows(layout), _files(layout.imported)
    assert len(rows["imported_events"]) == 120
    assert [row["run_id"] for row in rows[RUNS]] == ["phase_one", "phase_two"]
    _both(layout, tiny_experiment, tmp_path)
    assert _rows(layout) == rows
    assert _files(layout.imported) == files


def test_a_changed_folder_replaces_its_run_and_no_other(
    layout: StoreLayout, tiny_experiment: Experiment, tmp_path: Path
) -> None:
    _both(layout, tiny_experiment, tmp_path)
    folder = write_phase1(tmp_path / "one", event_rows()[:60])
    (folder / "analysis" / "selected_layers.json").unlink()
    import_run(layout, tiny_experiment, folder)
    assert len(imported_rows(layout, "imported_events", "phase_one")) == 60
    assert [row["run_id"] for row in imported_rows(layout, RUNS)] == ["phase_one", "phase_two"]
    assert not selection_of(layout, "phase_one").exists()
    assert len(list((layout.imported / "phase_one").glob("imported_events-*.parquet"))) == 1


def test_phase_2_is_linked_with_the_run_that_it_went_out_from(
    layout: StoreLayout, tiny_experiment: Experiment, tmp_path: Path
) -> None:
    imported = _both(layout, tiny_experiment, tmp_path)
    assert imported.row["phase1_run_id"] == "phase_one"
    assert "sweep_baseline_accuracy" in {row["fault"] for row in imported.faults}
    import_run(layout, tiny_experiment, write_phase1(tmp_path / "other", run_id="another"))
    again = import_run(layout, tiny_experiment, tmp_path / "two")
    assert again.row["phase1_run_id"] is None  # which of the two cannot be told
    given = import_run(layout, tiny_experiment, tmp_path / "two", phase1="another")
    assert given.row["phase1_run_id"] == "another"
    with pytest.raises(RunFolderError, match="imported runs: another, phase_one"):
        import_run(layout, tiny_experiment, tmp_path / "two", phase1="absent")


def test_the_selection_is_written_for_derived_subsets(
    layout: StoreLayout, tiny_experiment: Experiment, tmp_path: Path
) -> None:
    import_run(layout, tiny_experiment, write_phase1(tmp_path / "one"))
    content = json.loads(selection_of(layout, "phase_one").read_text())
    assert (content["attention"], content["mlp"]) == ([1, 0], [0])
    assert len(content["digest"]) == 64
    assert content["criterion"]


def test_cells_are_joined_by_name_components_and_scale(
    layout: StoreLayout, tiny_experiment: Experiment, tmp_path: Path
) -> None:
    _both(layout, tiny_experiment, tmp_path)
    section = published_section(OpenExperiment(tiny_experiment, layout=layout))
    found = {(published.cell, published.measure): published for published in section.cells}
    assert {cell for cell, _ in found} == {Cell("attn_1", 0.0), Cell("attn_1", 1.0)}
    assert found[Cell("attn_1", 0.0), "strict_rate"].value == 12 / 48
    assert found[Cell("attn_1", 1.0), "strict_rate"].value == 24 / 48  # the study's baseline
    assert found[Cell("attn_1", 0.0), "accuracy"].known_fault
    assert not found[Cell("attn_1", 0.0), "strict_rate"].known_fault
    said = " ".join(section.left_out)
    assert "both_0 is not beside a measured cell: it has 3 components there and 2 here" in said
    assert "elsewhere is not beside a measured cell: this experiment has no subset of that name" in said
    assert "attn_1 at 0.5 is not beside a measured cell: it is not in the plan" in said


def test_a_name_that_says_another_layer_is_not_joined(
    layout: StoreLayout, tiny_experiment: Experiment, tmp_path: Path
) -> None:
    subsets = {"attn_0_only": tiny_experiment.layer_subsets["attn_1"], **tiny_experiment.layer_subsets}
    subsets["phase1_full"] = subsets.pop("both_0").model_copy(update={"attention": (0, 1)})
    named = tiny_experiment.model_copy(update={"layer_subsets": subsets})
    swept = [{"subset_name": name, "num_components": n, "total": 4, "backtracking_rate": 0.5} for name, n in
             (("attn_0_only", 1), ("phase1_full", 3))]  # fmt: skip
    folder = write_phase1(tmp_path / "one")
    write_csv(folder / "analysis" / "subset_sweep_results.csv", swept)
    import_run(layout, tiny_experiment, folder)
    section = published_section(OpenExperiment(named, layout=layout))
    assert [str(published.cell) for published in section.cells] == ["phase1_full at 0"]
    assert "it has the components attention.0 there and attention.1 here" in section.left_out[0]


def test_the_sweep_page_shows_published_beside_measured(
    layout: StoreLayout, tiny_experiment: Experiment, tmp_path: Path
) -> None:
    _both(layout, tiny_experiment, tmp_path)
    section = published_section(OpenExperiment(tiny_experiment, layout=layout))
    report = sweep_report()
    first = report.cells[0].cell
    cells = tuple(replace(published, cell=first) for published in section.cells if published.cell.scale == 0.0)
    page = render_sweep_report(replace(report, published=replace(section, cells=cells)))
    assert "Published beside measured" in page
    assert "0.250" in page
    assert "known fault" in page
    assert "Published beside measured" not in render_sweep_report(report)


def test_the_page_of_a_run_shows_faults_and_figures(
    layout: StoreLayout, tiny_experiment: Experiment, tmp_path: Path
) -> None:
    folder = write_phase1(tmp_path / "one", [*event_rows(), {**event_rows()[0], "sample_id": "<b>"}])
    import_run(layout, tiny_experiment, folder)
    path = write_imported_report(layout, tiny_experiment, "phase_one")
    page = path.read_text(encoding="utf-8")
    assert "exactly 512 tokens" in page
    assert "differs" in page
    assert "line 122" in page
    assert "<b>" not in page
    assert path.read_bytes() == write_imported_report(layout, tiny_experiment, "phase_one").read_bytes()


def test_kept_runs_are_restored_and_a_damaged_one_is_named(
    layout: StoreLayout, tiny_experiment: Experiment, tmp_path: Path
) -> None:
    _both(layout, tiny_experiment, tmp_path)
    rows = _rows(layout)
    layout.database.unlink()
    restored = restore_runs(layout)
    assert (restored.runs, restored.refused) == (["phase_one", "phase_two"], {})
    assert _rows(layout) == rows
    part = next((layout.imported / "phase_two").glob("imported_figures-*"))
    part.write_bytes(part.read_bytes()[:100])
    layout.database.unlink()
    restored = restore_runs(layout)
    assert restored.runs == ["phase_one"]
    assert "torn" in restored.refused["phase_two"]


@pytest.mark.parametrize("point", ["transaction open", "transaction committed"])
def test_a_killed_import_leaves_one_run_or_the_other(
    layout: StoreLayout, tiny_experiment: Experiment, tmp_path: Path, point: str
) -> None:
    import_run(layout, tiny_experiment, write_phase1(tmp_path / "one"))
    before = _rows(layout)
    folder = write_phase1(tmp_path / "one", event_rows()[:60])
    command = "import sys; from backtracking_assets.cli import main; main()"
    killed = subprocess.run(
        [sys.executable, "-c", command, "import-run", str(folder), str(tiny_experiment.source)],
        env={**os.environ, "BACKTRACKING_FAULT": point},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    after = _rows(layout)
    assert after == before if point == "transaction open" else len(after["imported_events"]) == 60
    import_run(layout, tiny_experiment, folder)
    assert len(imported_rows(layout, "imported_events")) == 60
    layout.database.unlink()
    restore_runs(layout)
    assert len(imported_rows(layout, "imported_events")) == 60


def test_the_command_says_what_came_and_what_was_left_out(
    layout: StoreLayout, tiny_experiment: Experiment, tmp_path: Path
) -> None:
    rows = [*event_rows(), {**event_rows()[0], "completion_tokens": "1e999", "sample_id": 9}]
    folder = write_phase1(tmp_path / "one", rows)
    two = write_phase2(tmp_path / "two")
    with (tmp_path / "said").open("w+", encoding="utf-8") as said:
        console = Console(file=said, width=1000)
        assert run_import(two, str(tiny_experiment.source), str(folder), False, console) == 1
        said.seek(0)
        text = said.read()
    assert "Run phase_one: 9 files, 120 events" in text
    assert "Phase 1: run phase_one (as given)." in text
    assert "Left out: backtracking_events.csv, line 122: completion_tokens is '1e999'" in text
    before = _rows(layout)
    with pytest.raises(RunFolderError, match="with --strict nothing was imported"):
        run_import(folder, str(tiny_experiment.source), None, True, Console(quiet=True))
    assert _rows(layout) == before
