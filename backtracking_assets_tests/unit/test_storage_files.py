"""Layout, durable writes, checksummed Parquet and rows."""

import datetime
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backtracking_assets.errors import StorageError
from backtracking_assets.records import COMPLETIONS
from backtracking_assets.storage.checksum import content_sha256
from backtracking_assets.storage.durable import remove_stale_temporaries, write_durably
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.parquet import (
    FORMAT,
    DamagedFileError,
    read_columns,
    read_facts,
    read_parquet,
    write_parquet,
)
from backtracking_assets.storage.rows import conform, table_of, valid_text
from backtracking_assets.storage.set_aside import set_aside
from backtracking_assets_tests.unit.storage_samples import completion_row, keys

FACTS = {"kind": "chunk", "fingerprint": "f"}


@pytest.fixture
def table() -> pa.Table:
    return table_of([completion_row("f", "c", key) for key in keys(3, 2)], COMPLETIONS)


@pytest.fixture
def file(tmp_path: Path, table: pa.Table) -> Path:
    path = tmp_path / "chunk.parquet"
    write_parquet(table, path, FACTS)
    return path


def read(path: Path) -> pa.Table:
    return read_parquet(path, schema=COMPLETIONS, expected=FACTS)


def test_prepare_makes_every_folder(tmp_path: Path) -> None:
    layout = StoreLayout(tmp_path / "runs" / "organism")
    layout.prepare()
    layout.prepare()
    assert {path.name for path in layout.root.iterdir()} == {"journal", "archive", "locks", "reports", "set_aside"}
    assert not any(layout.journal.iterdir())


@pytest.mark.parametrize("blocked", ["runs", "runs/organism", "runs/organism/archive"])
def test_prepare_names_the_file_that_stands_in_the_way(tmp_path: Path, blocked: str) -> None:
    (tmp_path / blocked).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / blocked).write_text("")
    with pytest.raises(StorageError, match=rf"{tmp_path / blocked} is not a folder.*BACKTRACKING_HOME"):
        StoreLayout(tmp_path / "runs" / "organism").prepare()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_prepare_refuses_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="cannot be written"):
        StoreLayout(tmp_path / "runs").prepare()


def test_prepare_refuses_a_file_system_that_takes_no_files() -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        StoreLayout(Path("/proc/self/runs")).prepare()


@pytest.mark.parametrize("name", ["../../etc", "", "F" * 64, "a" * 63, "a" * 64 + "\n"])
def test_only_fingerprints_become_file_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match="not a fingerprint"):
        StoreLayout(tmp_path).archive_of(name)


def test_a_failed_write_leaves_the_old_content_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_durably(path, lambda temporary: temporary.write_text("old"))

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_durably(path, fail)
    assert [found.name for found in tmp_path.iterdir()] == ["plan.json"]
    assert path.read_text() == "old"


def test_a_write_without_its_folder_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written: No such file"):
        write_durably(tmp_path / "gone" / "x", lambda temporary: temporary.write_text("x"))


def test_a_writer_killed_before_the_rename_leaves_the_old_file_and_its_temporary_is_removed_later(
    tmp_path: Path, table: pa.Table
) -> None:
    path = tmp_path / "chunk.parquet"
    write_parquet(table, path, FACTS)
    script = f"""
import os, pathlib, signal
import pyarrow.parquet as pq
from backtracking_assets.storage import parquet
pathlib.Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)
path = pathlib.Path({str(path)!r})
parquet.write_parquet(pq.read_table(path).slice(0, 1), path, {FACTS!r})
"""
    died = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert died.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    assert read(path).equals(table)
    assert remove_stale_temporaries(tmp_path) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_temporaries_of_living_writers_and_of_other_hosts_stay(tmp_path: Path) -> None:
    (tmp_path / f".a.parquet.{socket.gethostname()}@{os.getpid()}.0123abcd.tmp").write_text("")
    (tmp_path / ".a.parquet.elsewhere@4000000.0123abcd.tmp").write_text("")
    (tmp_path / ".notes").write_text("")
    assert remove_stale_temporaries(tmp_path) == 0
    assert len(list(tmp_path.iterdir())) == 3


def test_a_table_comes_back_as_it_was_with_its_facts(file: Path, table: pa.Table) -> None:
    assert read(file).equals(table)
    assert read(file).schema.equals(COMPLETIONS, check_metadata=True)
    assert read_facts(file, expected=FACTS) == FACTS
    assert read_columns(file, ["problem_id"], schema=COMPLETIONS, expected=FACTS).num_columns == 1


def test_the_same_rows_give_the_same_bytes(tmp_path: Path, file: Path, table: pa.Table) -> None:
    pieces = pa.concat_tables([table.slice(0, 1), table.slice(1, 3), table.slice(4)])
    write_parquet(pieces, tmp_path / "again.parquet", dict(reversed(FACTS.items())))
    assert (tmp_path / "again.parquet").read_bytes() == file.read_bytes()


def forge(path: Path, table: pa.Table, source: Path) -> None:
    """The file with other rows under the metadata of `source`, checksum included."""
    pq.write_table(table.replace_schema_metadata(pq.read_schema(source).metadata), path)


def test_damage_is_named(tmp_path: Path, file: Path, table: pa.Table) -> None:
    whole = file.read_bytes()
    bad = tmp_path / "bad.parquet"

    def reason() -> str:
        with pytest.raises(DamagedFileError) as raised:
            read(bad)
        assert raised.value.path == bad
        return raised.value.reason

    assert reason() == "it does not exist"
    bad.write_bytes(b"")
    assert reason() == "it is empty"
    bad.write_bytes(whole[: len(whole) // 2])
    assert reason().startswith("it is torn")
    write_parquet(table, bad, {**FACTS, "fingerprint": "other"})
    assert reason() == "its fingerprint is other where f was expected"
    pq.write_table(table, bad)
    assert reason() == "its kind is not stated where chunk was expected"
    facts = {**FACTS, "format": str(FORMAT)}
    pq.write_table(table.replace_schema_metadata({f"backtracking.{key}": value for key, value in facts.items()}), bad)
    assert reason() == "it has no checksum"
    write_parquet(table.drop_columns(["device"]), bad, FACTS)
    assert reason() == "its columns are not those of the expected schema"
    forge(bad, table.take([1, 0, 2, 3, 4, 5]), file)
    assert reason() == "its checksum does not fit its content"
    forge(bad, table.slice(1), file)
    assert reason() == "its checksum does not fit its content"


@pytest.mark.parametrize("column", COMPLETIONS.names)
def test_a_changed_value_in_any_column_is_noticed(file: Path, table: pa.Table, column: str) -> None:
    def changed(value: object) -> object:
        match value:
            case str():
                return value + " "
            case list():
                return [*value[:-1], value[-1] + 1]
            case int() | float():
                return value + 1
            case datetime.datetime():
                return value + datetime.timedelta(microseconds=1)
        raise AssertionError(f"no change is known for {value!r}")

    values = table.column(column).to_pylist()
    field = COMPLETIONS.field(column)
    other = pa.array([*values[:-1], changed(values[-1])], field.type)
    forge(file, table.set_column(table.column_names.index(column), field, other), file)
    with pytest.raises(DamagedFileError, match="checksum"):
        read(file)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_bytes_changed_anywhere_are_noticed_or_change_nothing(
    tmp_path: Path, file: Path, table: pa.Table, data: st.DataObject
) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(content)
    try:
        found = read(bad)
    except DamagedFileError:
        return
    assert found.equals(table)


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_other_file_is_damaged(tmp_path: Path, content: bytes) -> None:
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(content)
    with pytest.raises(DamagedFileError):
        read(bad)


@given(st.lists(st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=3), max_size=4), st.integers(0, 4))
def test_the_digest_is_of_the_values_and_not_of_the_layout(lists: list[list[int | None]], at: int) -> None:
    whole = pa.table({"x": pa.array(lists, pa.list_(pa.int32()))})
    parts = pa.concat_tables([whole.slice(0, at), whole.slice(at)])
    assert content_sha256(parts, {}) == content_sha256(whole, {})


def test_the_digest_tells_null_from_empty_and_where_lists_end() -> None:
    def digest(values: list[object], kind: pa.DataType) -> str:
        return content_sha256(pa.table({"x": pa.array(values, kind)}), {})

    numbers, strings = pa.list_(pa.int32()), pa.string()
    tables = [
        ([[1], [2]], numbers),
        ([[1, 2], []], numbers),
        ([[1, 2], None], numbers),
        ([[1, 2], [None]], numbers),
        (["ab", ""], strings),
        (["a", "b"], strings),
        (["ab", None], strings),
        ([1, 0], pa.int32()),
        ([1, None], pa.int32()),
        ([1, 0], pa.int64()),
        ([1.0, 0.0], pa.float64()),
        ([1.0, -0.0], pa.float64()),
    ]
    assert len({digest(values, kind) for values, kind in tables}) == len(tables)
    with pytest.raises(TypeError, match="no digest"):
        digest([b"x"], pa.binary())


def test_a_file_of_the_first_format_reads_with_its_missing_column_null(table: pa.Table) -> None:
    """The file was written by the release before `batch_rows` was there, from the same rows."""
    older = Path(__file__).parent / "format_1.parquet"
    found = read(older)
    assert found.schema.equals(COMPLETIONS, check_metadata=True)
    assert found.drop_columns(["batch_rows"]).equals(table.drop_columns(["batch_rows"]))
    assert found["batch_rows"].null_count == found.num_rows
    assert read_columns(older, ["problem_id", "batch_rows"], schema=COMPLETIONS, expected=FACTS).num_rows == 6
    assert read_facts(older, expected=FACTS) == FACTS


def test_the_first_format_is_held_to_its_checksum_too(tmp_path: Path, table: pa.Table) -> None:
    older = pq.read_table(Path(__file__).parent / "format_1.parquet")
    other = older.set_column(0, older.schema.field(0), pa.array(["g"] * 6))
    bad = tmp_path / "bad.parquet"
    pq.write_table(other.replace_schema_metadata(older.schema.metadata), bad)
    with pytest.raises(DamagedFileError, match="its checksum does not fit its content"):
        read(bad)


def test_a_whole_file_of_a_newer_format_is_refused_and_is_not_damaged(tmp_path: Path, table: pa.Table) -> None:
    newer = table.append_column("added_later", pa.array([1] * table.num_rows))
    facts = {**FACTS, "format": str(FORMAT + 1)}
    facts["sha256"] = content_sha256(newer, facts)
    path = tmp_path / "newer.parquet"
    pq.write_table(newer.replace_schema_metadata({f"backtracking.{key}": value for key, value in facts.items()}), path)
    for ask in (read, lambda p: read_facts(p, expected=FACTS)):
        with pytest.raises(StorageError, match=f"has format {FORMAT + 1}, .*update backtracking_assets") as refused:
            ask(path)
        assert not isinstance(refused.value, DamagedFileError)
    facts["sha256"] = "0" * 64  # then it is no newer file, but one whose format was altered
    pq.write_table(newer.replace_schema_metadata({f"backtracking.{key}": value for key, value in facts.items()}), path)
    with pytest.raises(DamagedFileError, match="its format is"):
        read(path)


def test_a_checksum_cannot_be_given(tmp_path: Path, table: pa.Table) -> None:
    with pytest.raises(ValueError, match="sha256"):
        write_parquet(table, tmp_path / "x.parquet", {"sha256": "0"})


@given(st.text(alphabet=st.characters(categories=None), max_size=40))
def test_valid_text_has_a_utf8_form_and_keeps_positions(text: str) -> None:
    valid = valid_text(text)
    assert len(valid) == len(text)
    assert valid.encode().decode() == valid
    assert all(new == old or "\ud800" <= old <= "\udfff" for new, old in zip(valid, text, strict=True))


def test_rows_with_lone_surrogates_and_nul_are_stored(tmp_path: Path) -> None:
    row = completion_row("f", "c", ("p", 0), text="a\ud83db\0c\udc00😀")
    write_parquet(table_of([row], COMPLETIONS), tmp_path / "x.parquet", FACTS)
    assert read(tmp_path / "x.parquet")["text"].to_pylist() == ["a�b\0c�😀"]


def test_rows_that_do_not_fit_are_refused(table: pa.Table) -> None:
    row = completion_row("f", "c", ("p", 0))
    with pytest.raises(StorageError, match="column text is missing and column txt is unknown"):
        table_of([{**{k: v for k, v in row.items() if k != "text"}, "txt": "x"}], COMPLETIONS)
    with pytest.raises(StorageError, match="'text' with null values"):
        table_of([{**row, "text": None}], COMPLETIONS)
    with pytest.raises(StorageError, match="does not fit"):
        table_of([{**row, "sample_id": 2**31}], COMPLETIONS)
    with pytest.raises(StorageError, match="column chunk_seconds holds a NaN"):
        table_of([{**row, "chunk_seconds": float("nan")}], COMPLETIONS)
    with pytest.raises(StorageError, match="column device is missing"):
        conform(table.drop_columns(["device"]), COMPLETIONS)
    with pytest.raises(StorageError, match="given twice"):
        conform(table.append_column("device", table["device"]), COMPLETIONS)


def test_files_set_aside_keep_their_content_and_reason(tmp_path: Path) -> None:
    layout = StoreLayout(tmp_path)
    layout.prepare()
    for content in ("first", "second"):
        bad = layout.archive / "x.parquet"
        bad.write_text(content)
        target = set_aside(layout, bad, f"{content} is bad")
        assert not bad.exists()
        assert target.read_text() == content
        assert target.with_name(f"{target.name}.reason.txt").read_text() == f"{content} is bad\n"
    assert len(list(layout.set_aside.iterdir())) == 4
