"""Several sweeps share the cells of a plan and never work on one at once."""

import os
import time
from pathlib import Path

import pytest

from backtracking_assets.records import Cell
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.turns import in_turn, visitors
from backtracking_assets_tests.integration.processes import finish, start

CELLS = [Cell("attn_1", 1.0), Cell("attn_1", 0.0), Cell("both_0", 0.0), Cell("both_0", 0.5)]


@pytest.fixture
def layout(tmp_path: Path) -> StoreLayout:
    return StoreLayout(tmp_path)


def is_baseline(cell: Cell) -> bool:
    return cell.scale == 1.0


def work(root: Path, log: Path) -> None:
    """Note the begin and end of work on each cell that is not done."""
    layout = StoreLayout(root)
    before = visitors(layout, CELLS)
    left = [cell for cell in CELLS if not is_done(cell, log)]
    for turn in in_turn(layout, left, before, comes_first=is_baseline):
        if not turn.visited or not is_done(turn.cell, log):
            for mark in ("begin", "end"):
                with log.open("a", encoding="utf-8") as file:
                    file.write(f"{mark}\t{turn.cell}\t{os.getpid()}\n")
                time.sleep(0.05)


def is_done(cell: Cell, log: Path) -> bool:
    return log.exists() and f"end\t{cell}\t" in log.read_text(encoding="utf-8")


def die_holding_the_first(root: Path) -> None:
    turns = in_turn(StoreLayout(root), CELLS, dict.fromkeys(CELLS))
    next(turns)  # the generator is kept: it would let go when it is collected
    os.kill(os.getpid(), 9)


def test_one_process_gets_every_cell_in_order(layout: StoreLayout) -> None:
    turns = list(in_turn(layout, CELLS, visitors(layout, CELLS)))
    assert [turn.cell for turn in turns] == CELLS
    assert not any(turn.visited for turn in turns)


def test_a_cell_that_is_worked_on_comes_last_and_is_told_as_visited(layout: StoreLayout) -> None:
    before = visitors(layout, CELLS)
    first, waited = in_turn(layout, CELLS, before), []
    assert next(first).cell == CELLS[0]
    found = list(in_turn(layout, CELLS, before, on_wait=lambda: waited.append(first.close())))
    assert [turn.cell for turn in found] == [*CELLS[1:], CELLS[0]]
    assert [turn.visited for turn in found] == [False, False, False, True]
    assert len(waited) == 1


def test_a_cell_that_must_come_first_is_waited_for(layout: StoreLayout) -> None:
    before = visitors(layout, CELLS)
    first = in_turn(layout, CELLS, before)
    other = in_turn(layout, CELLS, before, comes_first=is_baseline, on_wait=first.close)
    assert next(first).cell == CELLS[0]
    assert [turn.cell for turn in other] == CELLS


def test_cells_that_must_come_first_are_handed_out_one_after_another(layout: StoreLayout) -> None:
    cells = [Cell("attn_1", 1.0), Cell("both_0", 1.0), Cell("attn_1", 0.0)]
    before, handed = visitors(layout, cells), []
    first = in_turn(layout, cells, before, comes_first=is_baseline)
    handed.append(next(first).cell)

    def let_go() -> None:
        handed.append("waited")
        first.close()

    handed += [turn.cell for turn in in_turn(layout, cells, before, comes_first=is_baseline, on_wait=let_go)]
    assert handed == [cells[0], "waited", *cells]


def test_processes_share_the_cells_and_each_is_worked_on_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    workers = [start(work, tmp_path / "store", log) for _ in range(3)]
    assert [finish(worker) for worker in workers] == [0, 0, 0]
    lines = [line.split("\t") for line in log.read_text(encoding="utf-8").splitlines()]
    assert sorted(cell for mark, cell, _ in lines if mark == "begin") == sorted(map(str, CELLS))
    assert sorted(cell for mark, cell, _ in lines if mark == "end") == sorted(map(str, CELLS))
    assert [cell for _, cell, _ in lines[:2]] == ["attn_1 at 1"] * 2  # nothing beside the baseline


def test_a_killed_holder_frees_its_cell(tmp_path: Path) -> None:
    assert finish(start(die_holding_the_first, tmp_path)) == -9
    layout = StoreLayout(tmp_path)
    assert [turn.cell for turn in in_turn(layout, CELLS, visitors(layout, CELLS))] == CELLS
