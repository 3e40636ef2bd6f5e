"""Connections: who may open the database, what happens when somebody else has, and what is never overwritten."""

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from backtracking_assets.errors import StorageError
from backtracking_assets.storage.database import reading, writing
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.tables import TABLES, sql_type


@pytest.fixture
def layout(tmp_path: Path) -> StoreLayout:
    layout = StoreLayout(tmp_path)
    layout.prepare()
    return layout


def add_subset(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    connection.execute(
        "insert into settings values (?, 'statistics', '{}')",
        [name],
    )


def add_and_fail(layout: StoreLayout) -> None:
    with writing(layout) as connection:
        add_subset(connection, "lost")
        raise RuntimeError


def add_twice(layout: StoreLayout) -> None:
    with writing(layout) as connection:
        add_subset(connection, "lost too")
        add_subset(connection, "kept")


def subsets(layout: StoreLayout) -> list[str]:
    with reading(layout) as connection:
        return [row[0] for row in connection.execute("select digest from settings order by 1").fetchall()]


def python(script: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_before_the_first_write_there_is_an_empty_database_and_no_file(layout: StoreLayout) -> None:
    assert subsets(layout) == []
    assert not layout.database.exists()


def test_the_database_has_the_columns_and_types_of_the_schemas(layout: StoreLayout) -> None:
    with writing(layout):
        pass
    with reading(layout) as connection:
        for table in TABLES.values():
            found = connection.sql(f"from {table.name}").to_arrow_table().schema
            assert found.names == table.schema.names
            assert [str(sql_type(kind)) for kind in found.types] == [sql_type(kind) for kind in table.schema.types]
            rows = connection.execute(f"pragma table_info('{table.name}')").fetchall()
            assert {row[1] for row in rows if not row[3]} == {f.name for f in table.schema if f.nullable}
            assert {row[1] for row in rows if row[5]} == set(table.key)
    with pytest.raises(TypeError, match="no DuckDB type"):
        sql_type(pa.binary())


def test_a_block_that_raises_leaves_nothing(layout: StoreLayout) -> None:
    with writing(layout) as connection:
        add_subset(connection, "kept")
    with pytest.raises(RuntimeError):
        add_and_fail(layout)
    with pytest.raises(StorageError, match=r"refused a statement, and nothing of the transaction was kept: .*kept"):
        add_twice(layout)
    assert subsets(layout) == ["kept"]


def test_reading_cannot_write(layout: StoreLayout) -> None:
    with writing(layout):
        pass
    with pytest.raises(StorageError, match="read-only"), reading(layout) as connection:
        add_subset(connection, "x")


def test_a_writer_killed_inside_its_transaction_leaves_the_last_commit(layout: StoreLayout) -> None:
    with writing(layout) as connection:
        add_subset(connection, "kept")
    script = f"""
        import os, signal
        from pathlib import Path
        from backtracking_assets.storage.database import writing
        from backtracking_assets.storage.layout import StoreLayout
        layout = StoreLayout(Path({str(layout.root)!r}))
        with writing(layout) as connection:
            connection.execute("delete from settings")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert python(script).wait(60) == -9
    assert subsets(layout) == ["kept"]
    with writing(layout, wait=1) as connection:
        add_subset(connection, "more")
    assert subsets(layout) == ["kept", "more"]


def test_two_processes_that_write_at_once_both_succeed(layout: StoreLayout) -> None:
    script = f"""
        from pathlib import Path
        from backtracking_assets.storage.database import writing
        from backtracking_assets.storage.layout import StoreLayout
        layout = StoreLayout(Path({str(layout.root)!r}))
        for number in range(8):
            with writing(layout) as connection:
                connection.execute("insert into settings values (?, 'statistics', '')", [f"NAME_{{number}}"])
    """
    writers = [python(script.replace("NAME", name)) for name in ("first", "second")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert len(subsets(layout)) == 16


@pytest.mark.parametrize("read_only", [False, True])
def test_a_database_held_elsewhere_names_the_holder_and_what_is_safe(layout: StoreLayout, read_only: bool) -> None:
    with writing(layout) as connection:
        add_subset(connection, "kept")
    notebook = python(f"""
        import sys, duckdb
        connection = duckdb.connect({str(layout.database)!r}, read_only={read_only})
        print("held", flush=True)
        sys.stdin.read()
    """)
    assert notebook.stdout is not None
    assert notebook.stdout.readline() == "held\n"
    try:
        held = rf"held by process {notebook.pid} \(.*python.*completions are safe in .*archive.*run the same command"
        with pytest.raises(StorageError, match=held), writing(layout, wait=0.2):
            pytest.fail("two processes write one database")
        if read_only:
            assert subsets(layout) == ["kept"]
        else:
            with pytest.raises(StorageError, match=held), reading(layout, wait=0.2):
                pytest.fail("a database that is being written was read")
        ending = threading.Timer(0.3, notebook.kill)
        ending.start()
        with writing(layout, wait=30) as connection:
            add_subset(connection, "more")
        ending.join()
    finally:
        notebook.kill()
        notebook.communicate()
    assert subsets(layout) == ["kept", "more"]


def test_a_second_connection_of_this_process_waits_and_says_so(layout: StoreLayout) -> None:
    with writing(layout):
        with pytest.raises(StorageError, match="held by this process itself"), reading(layout, wait=0.1):
            pytest.fail("opened twice")
        with pytest.raises(StorageError, match="in use by process"), writing(layout, wait=0.1):
            pytest.fail("opened twice")
    with reading(layout), reading(layout):
        pass


@pytest.mark.parametrize("content", [b"", b"no database " * 1000])
def test_a_damaged_database_is_left_as_it_is(layout: StoreLayout, content: bytes) -> None:
    layout.database.write_bytes(content)
    for opened in (reading, writing):
        with pytest.raises(StorageError, match=r"was left as it is.*backtracking rebuild-database"), opened(layout):
            pytest.fail("opened")
    assert layout.database.read_bytes() == content


def test_a_torn_database_is_left_as_it_is(layout: StoreLayout) -> None:
    with writing(layout):
        pass
    torn = layout.database.read_bytes()[:9000]
    layout.database.write_bytes(torn)
    with pytest.raises(StorageError, match="left as it is"), writing(layout):
        pytest.fail("opened")
    assert layout.database.read_bytes() == torn


@pytest.mark.parametrize(("version", "remedy"), [(99, "update backtracking_assets"), (0, "rebuild-database")])
def test_a_database_of_another_version_is_refused(layout: StoreLayout, version: int, remedy: str) -> None:
    with writing(layout) as connection:
        connection.execute("update schema_version set version = ?", [version])
    for opened in (reading, writing):
        with pytest.raises(StorageError, match=f"schema version {version}.*{remedy}"), opened(layout):
            pytest.fail("opened")


def test_a_database_of_somebody_else_is_refused(layout: StoreLayout) -> None:
    duckdb.connect(str(layout.database)).close()
    with pytest.raises(StorageError, match="this project did not make"), writing(layout):
        pytest.fail("opened")


def test_a_log_left_by_a_removed_database_is_set_aside(layout: StoreLayout) -> None:
    (layout.root / "backtracking.duckdb.wal").write_bytes(b"old")
    with writing(layout):
        pass
    assert (layout.set_aside / "backtracking.duckdb.wal").read_bytes() == b"old"
    assert {path.name for path in layout.root.iterdir() if path.is_file()} == {"backtracking.duckdb"}
