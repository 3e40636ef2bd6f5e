"""Cells that one asset hands on to the next one in the same process."""

import subprocess
import sys
from pathlib import Path

import pytest

from backtracking_assets.assets import handed_on
from backtracking_assets.assets.generating import ensure_completions
from backtracking_assets.assets.handed_on import Found, hand_on, taken
from backtracking_assets.assets.measuring import check_completions, measure_cell, read_completions
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.stored_cells import detected_cell, linked_cell
from backtracking_assets.errors import StorageError
from backtracking_assets.records import Cell
from backtracking_assets.storage.input_commits import write_problem_set
from backtracking_assets_tests.integration.studies import Study, make_study

CELL = Cell("attn_1", 0.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Study:
    study = make_study(tmp_path_factory.mktemp("handed_on"), tiny_checkpoint)
    with study.active():
        generated(study.opened())
    return study


@pytest.fixture
def opened(made: Study, monkeypatch: pytest.MonkeyPatch) -> OpenExperiment:
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made.opened()


def generated(opened: OpenExperiment) -> Found:
    """As the asset `generations` leaves it."""
    found = ensure_completions(opened, CELL, run_id="run", log=lambda message: None).found
    assert found is not None
    check_completions(found.stored, "run", None)
    return found.written(found.stored)


def read(opened: OpenExperiment) -> Found:
    """As the asset `detections` leaves it."""
    found = generated(opened)
    return found.written(read_completions(found.stored, "run")[0])


def test_what_is_handed_on_is_what_would_be_read(opened: OpenExperiment) -> None:
    hand_on(generated(opened))
    kept = taken(opened, CELL, detected=False)
    assert kept is not None
    assert kept.stored.completions.equals(linked_cell(opened, CELL).completions)

    hand_on(read(opened))
    kept = taken(opened, CELL, detected=True)
    assert kept is not None
    stored = detected_cell(opened, CELL)
    assert kept.stored.completions.equals(stored.completions)
    assert kept.stored.detections.equals(stored.detections)
    assert kept.stored.version() == stored.version()

    hand_on(kept)
    measured, table, _ = measure_cell(opened, CELL, "run")
    hand_on(measured)
    assert taken(opened, CELL, detected=True) is not None
    _, again, _ = measure_cell(opened, CELL, "run")
    assert again.equals(table)


def test_it_is_taken_once_and_for_its_own_cell(opened: OpenExperiment) -> None:
    found = read(opened)
    hand_on(found)
    assert taken(opened, Cell("both_0", 0.0), detected=True) is None
    assert taken(opened, CELL, detected=True) is None
    hand_on(found)
    assert taken(opened, CELL, detected=True) is not None
    assert not handed_on._handed_on


def test_completions_alone_do_not_serve_where_detections_are_wanted(opened: OpenExperiment) -> None:
    hand_on(generated(opened))
    assert taken(opened, CELL, detected=True) is None


def test_after_another_writing_of_this_process_it_is_read_anew(opened: OpenExperiment) -> None:
    hand_on(read(opened))
    write_problem_set(opened.layout, list(opened.problems.values()))
    assert taken(opened, CELL, detected=True) is None


def test_after_a_writing_between_it_and_what_the_asset_stored_it_is_read_anew(opened: OpenExperiment) -> None:
    found = generated(opened)
    write_problem_set(opened.layout, list(opened.problems.values()))
    hand_on(found.written(read_completions(found.stored, "run")[0]))
    assert taken(opened, CELL, detected=True) is None


def test_after_another_process_has_written_it_is_read_anew(opened: OpenExperiment) -> None:
    hand_on(read(opened))
    script = "import sys, duckdb; duckdb.connect(sys.argv[1]).execute('update completions set text = upper(text)')"
    subprocess.run([sys.executable, "-c", script, str(opened.layout.database)], check=True)
    assert taken(opened, CELL, detected=True) is None
    found = handed_on.linked(opened, CELL)
    assert all(text == text.upper() for text in found.stored.completions["text"].to_pylist())


def test_for_another_experiment_file_it_is_refused(opened: OpenExperiment, made: Study) -> None:
    hand_on(read(opened))
    changed = made.opened(sampling={"seed": 17})
    with pytest.raises(StorageError, match="does not ask for any more"):
        taken(changed, CELL, detected=True)
    hand_on(read(made.opened()))
    other_rules = made.opened(detection={"priority": "earliest"})
    assert taken(other_rules, CELL, detected=True) is None
