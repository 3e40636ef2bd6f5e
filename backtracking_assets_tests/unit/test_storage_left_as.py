"""Whether a database is as this process left it."""

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from backtracking_assets.storage import queries
from backtracking_assets.storage.database import kept_open, reading, state_of, writing
from backtracking_assets.storage.layout import StoreLayout

INSERT = "insert into settings values ({digest!r}, 'statistics', '{{}}')"


@pytest.fixture
def layout(tmp_path: Path) -> StoreLayout:
    layout = StoreLayout(tmp_path / "store")
    layout.prepare()
    write(layout, "a")
    return layout


def write(layout: StoreLayout, digest: str) -> None:
    with writing(layout) as connection:
        connection.execute(INSERT.format(digest=digest))


def elsewhere(script: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=True)


READ = """
import sys; from pathlib import Path
from backtracking_assets.storage import queries; from backtracking_assets.storage.layout import StoreLayout
queries.cells(StoreLayout(Path(sys.argv[1])))
"""
WRITE = "import sys, duckdb; duckdb.connect(sys.argv[1]).execute(sys.argv[2])"
DIE = "import os, sys, duckdb; c = duckdb.connect(sys.argv[1]); c.execute(sys.argv[2]); os._exit(0)"


def test_reading_leaves_the_state_as_it_is(layout: StoreLayout) -> None:
    before = state_of(layout)
    assert before is not None
    queries.cells(layout)
    elsewhere(READ, layout.root)
    assert state_of(layout) == before


def test_each_writing_of_this_process_is_one_step(layout: StoreLayout) -> None:
    before = state_of(layout)
    assert before is not None
    write(layout, "b")
    assert state_of(layout) == before.after(1)
    with kept_open(layout):
        write(layout, "c")
        write(layout, "d")
    assert state_of(layout) == before.after(2)


@pytest.mark.parametrize("script", [WRITE, DIE])
def test_what_others_write_is_another_state(layout: StoreLayout, script: str) -> None:
    before = state_of(layout)
    assert before is not None
    elsewhere(script, layout.database, INSERT.format(digest="b"))
    found = state_of(layout)
    assert found not in (before, before.after(1))
    write(layout, "c")
    elsewhere(script, layout.database, INSERT.format(digest="d"))
    write(layout, "e")
    assert state_of(layout) not in (before, found, before.after(1), before.after(2))


def test_a_file_that_took_the_place_of_another_is_another_state(layout: StoreLayout, tmp_path: Path) -> None:
    before = state_of(layout)
    copy = tmp_path / "copy"
    copy.write_bytes(layout.database.read_bytes())
    with duckdb.connect(str(copy)) as connection:
        connection.execute("delete from settings")
    copy.replace(layout.database)
    assert state_of(layout) != before


def test_a_file_that_is_open_here_is_not_looked_at(layout: StoreLayout) -> None:
    with reading(layout):
        assert state_of(layout) is None
    with writing(layout):
        assert state_of(layout) is None
    assert state_of(layout) is not None
