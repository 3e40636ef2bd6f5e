"""A plan of more cells than a table shows a row each, in a store that is filled as the storage benchmark does it."""

import json
import sys
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from backtracking_assets.assets.status import planned_status
from backtracking_assets.cli.status import show_status
from backtracking_assets.experiment import PROJECT_ROOT
from backtracking_assets.records import Cell
from backtracking_assets.storage import queries


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """An experiment file of 206 cells of 8 completions, and its store with the first six of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(PROJECT_ROOT / "benchmarks")])
        large_store = import_module("large_store")
    file = large_store.write_experiment(tmp_path_factory.mktemp("many"), conditions=206, completions=8)
    store = large_store.LargeStore(large_store.open_store(file))
    assert list(store.fill(6)) == [6]
    store.write_pages()
    return file, store


def test_cells_filled_in_many_at_once_are_those_that_are_committed_one_by_one(made: tuple[Path, Any]) -> None:
    _, store = made
    layout, cell = store.opened.layout, store.plan[4]
    fingerprint = store.opened.condition(cell).fingerprint

    def rows() -> list[Any]:
        tables = [
            queries.completions(layout, fingerprint),
            queries.detections(layout, fingerprint, store.opened.rules_digest),
            queries.metrics(layout, cell=cell),
            queries.checks(layout, cell=cell),
            queries.cells(layout).drop_columns(["committed_at"]),
            queries.conditions(layout),
        ]
        return [table.to_pylist() for table in tables]

    filled = rows()
    assert [len(table) for table in filled[:2]] == [8, 8]
    store.forget([cell])
    assert [len(table) for table in rows()[:4]] == [0, 0, 0, 0]
    store.commit(cell)
    assert rows() == filled


def test_a_long_table_has_one_row_for_cells_of_a_subset_of_which_the_same_is_said(
    made: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, store = made
    monkeypatch.setenv("BACKTRACKING_HOME", str(file.parent / "runs"))
    output = StringIO()
    show_status(str(file), False, Console(file=output, width=200))
    lines = output.getvalue().splitlines()
    rows = [[part.strip() for part in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert rows[0][:4] == ["made_up_0000", "1, 0, 0.25, 0.5, 0.75, 0.9", "done", "8 of 8"]
    assert rows[1][:5] == ["made_up_0001", "0, 0.25, 0.5, 0.75, 0.9", "missing", "0 of 8", "nothing is there"]
    assert len(rows) == len(store.opened.subsets) == 41
    assert "6 done, 200 missing." in lines
    show_status(str(file), True, Console())
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert [Cell(cell["layer_subset"], cell["scale"]) for cell in cells] == list(store.plan)
    assert [cell["state"] for cell in cells] == [status.state for status in planned_status(store.opened)]
