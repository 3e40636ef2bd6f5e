"""Blocks that read share one opening of the database, and nobody writes while one is open."""

import multiprocessing
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backtracking_assets.errors import HeldDatabaseError, StorageError
from backtracking_assets.storage import attaching, queries
from backtracking_assets.storage.database import kept_open, reading, writing
from backtracking_assets.storage.layout import StoreLayout


@pytest.fixture
def layout(tmp_path: Path) -> StoreLayout:
    layout = StoreLayout(tmp_path / 'it\'s a "store"')
    layout.prepare()
    with writing(layout) as connection:
        connection.execute("insert into settings values ('a', 'statistics', '{}')")
    return layout


def digests(layout: StoreLayout) -> list[str]:
    with reading(layout) as connection:
        return [row[0] for row in connection.execute("select digest from settings order by 1").fetchall()]


def written_elsewhere(layout: StoreLayout, digest: str) -> str:
    """What another process says that wants to write and does not wait."""
    script = f"""
from pathlib import Path
from backtracking_assets.storage.database import writing
from backtracking_assets.storage.layout import StoreLayout
with writing(StoreLayout(Path({str(layout.root)!r})), wait=0) as connection:
    connection.execute("insert into settings values ({digest!r}, 'statistics', '{{}}')")
"""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stderr


def test_an_inner_block_opens_nothing_and_leaves_the_outer_ones_hold(layout: StoreLayout) -> None:
    with reading(layout) as outer:
        assert digests(layout) == ["a"]
        queries.cells(layout)
        # Closing a file gives up all locks that a process has on it: another process must still find it held.
        assert "HeldDatabaseError" in written_elsewhere(layout, "b")
        assert outer.execute("select count(*) from settings").fetchall() == [(1,)]
    assert written_elsewhere(layout, "b") == ""
    assert digests(layout) == ["a", "b"]


def test_a_thread_that_would_wait_for_itself_is_told_at_once(layout: StoreLayout) -> None:
    with reading(layout), pytest.raises(HeldDatabaseError, match="this process itself"), writing(layout, wait=3600):
        pytest.fail("written while it was read")
    with writing(layout), pytest.raises(HeldDatabaseError, match="this process itself"), reading(layout, wait=3600):
        pytest.fail("read while it was written")


def test_after_a_statement_that_fails_the_next_block_starts_anew(layout: StoreLayout) -> None:
    with pytest.raises(StorageError, match="could not answer"), reading(layout) as connection:
        connection.execute("select nothing from settings")
    assert not any(instance.spoilt for instance in attaching._instances.values())
    assert digests(layout) == ["a"]


def test_one_block_that_fails_takes_nothing_from_the_block_around_it(layout: StoreLayout) -> None:
    with reading(layout) as outer:
        with pytest.raises(StorageError, match="could not answer"), reading(layout) as connection:
            connection.execute("select nothing from settings")
        assert outer.execute("select digest from settings").fetchall() == [("a",)]
    assert digests(layout) == ["a"]


def test_two_stores_are_read_side_by_side(layout: StoreLayout, tmp_path: Path) -> None:
    other = StoreLayout(tmp_path / "other")
    other.prepare()
    with reading(layout) as first, writing(other) as second:
        second.execute("insert into settings select 'c', 'statistics', '{}'")
        assert first.execute("select digest from settings").fetchall() == [("a",)]
    assert digests(other) == ["c"]


def test_times_are_those_of_utc(layout: StoreLayout) -> None:
    with reading(layout) as connection:
        assert connection.execute("select current_setting('TimeZone')").fetchall() == [("UTC",)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_has_an_instance_of_its_own(layout: StoreLayout) -> None:
    assert digests(layout) == ["a"]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=lambda: answers.put(digests(layout)))
    child.start()
    assert answers.get(timeout=60) == ["a"]
    child.join(60)
    assert child.exitcode == 0


def test_a_database_that_is_kept_open_is_read_and_written_by_turns(layout: StoreLayout) -> None:
    with kept_open(layout):
        assert digests(layout) == ["a"]
        with writing(layout) as connection:
            connection.execute("insert into settings values ('b', 'statistics', '{}')")
        assert digests(layout) == ["a", "b"]
        with pytest.raises(StorageError, match="refused a statement"), writing(layout) as connection:
            connection.execute("delete from settings; insert into settings values (null, null, null)")
        assert digests(layout) == ["a", "b"]
        assert "LockHeldError" in written_elsewhere(layout, "c")
    assert written_elsewhere(layout, "c") == ""
    assert digests(layout) == ["a", "b", "c"]


def test_what_is_committed_while_it_is_kept_open_outlives_the_process(layout: StoreLayout) -> None:
    script = f"""
import os
from pathlib import Path
from backtracking_assets.storage.database import kept_open, writing
from backtracking_assets.storage.layout import StoreLayout
layout = StoreLayout(Path({str(layout.root)!r}))
with kept_open(layout):
    with writing(layout) as connection:
        connection.execute("insert into settings values ('b', 'statistics', '{{}}')")
    with writing(layout) as connection:
        connection.execute("insert into settings values ('c', 'statistics', '{{}}')")
        os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert digests(layout) == ["a", "b"]


def test_reading_and_writing_still_exclude_each_other_while_it_is_kept_open(layout: StoreLayout) -> None:
    with kept_open(layout):
        with reading(layout), pytest.raises(HeldDatabaseError, match="this process itself"), writing(layout):
            pytest.fail("written while it was read")
        with writing(layout), pytest.raises(HeldDatabaseError, match="this process itself"), reading(layout):
            pytest.fail("read while it was written")
        assert digests(layout) == ["a"]


def test_another_thread_waits_for_a_database_that_is_kept_open(layout: StoreLayout) -> None:
    with kept_open(layout), ThreadPoolExecutor(1) as others:
        waiting = others.submit(queries.cells, layout, wait=0.2)
        with pytest.raises(HeldDatabaseError, match="another thread"):
            waiting.result(timeout=60)
    assert digests(layout) == ["a"]
