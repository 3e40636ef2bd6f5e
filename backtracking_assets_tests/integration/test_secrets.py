"""Tokens in the environment and in `.env` stand nowhere in what the commands print and leave behind."""

import gzip
import os
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from backtracking_assets.assets import measuring
from backtracking_assets.cli.environment import prepare_environment
from backtracking_assets.cli.instance import open_instance
from backtracking_assets.records import Cell
from backtracking_assets_tests.integration.processes import Finished, backtracking
from backtracking_assets_tests.integration.studies import make_study, run_cell

_IN_ENVIRONMENT = {
    "HF_TOKEN": "hf_markedTokenOfTheHub",
    "AWS_SECRET_ACCESS_KEY": "marked/Secret+OfAws",
    "AWS_SESSION_TOKEN": "markedSessionTokenOfAws",
    "DB_PASSWORD": "markedPasswordOfADatabase",
}
_IN_FILE = {"WANDB_API_KEY": "markedKeyOfTracking", "GITHUB_TOKEN": "ghp_markedTokenOfGit", "WANDB_ENTITY": "a-team"}
MARKED = [*_IN_ENVIRONMENT.values(), *(value for name, value in _IN_FILE.items() if name != "WANDB_ENTITY")]


def texts_of(path: Path) -> Iterator[bytes]:
    """A file as it lies on disk, and what is compressed in it."""
    content = path.read_bytes()
    yield content
    if path.suffix == ".parquet":
        yield repr((pq.read_schema(path).metadata, pq.read_table(path).to_pylist())).encode()
    elif path.suffix == ".duckdb":
        with duckdb.connect(str(path), read_only=True) as connection:
            for (table,) in connection.execute("select table_name from duckdb_tables()").fetchall():
                yield repr(connection.execute(f'select * from "{table}"').fetchall()).encode()
    elif content.startswith(b"SQLite format 3"):
        yield from _cells_of(path)
    elif content.startswith(b"\x1f\x8b"):
        yield gzip.decompress(content)


def _cells_of(path: Path) -> Iterator[bytes]:
    with sqlite3.connect(path) as connection:
        for (table,) in connection.execute("select name from sqlite_master where type = 'table'").fetchall():
            for row in connection.execute(f'select * from "{table}"').fetchall():
                for value in row:
                    yield repr(value).encode()
                    if isinstance(value, bytes):
                        try:
                            yield zlib.decompress(value)
                        except zlib.error:
                            continue


def holding(folder: Path) -> list[Path]:
    """The files below a folder that hold a marked value."""
    marks = [mark.encode() for mark in MARKED]
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(mark in text for text in texts_of(path) for mark in marks)
    ]


def test_a_marked_value_would_be_found(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "rows.db") as connection:
        connection.execute("create table events (body blob)")
        connection.execute("insert into events values (?)", [zlib.compress(b"said " + MARKED[0].encode())])
    connection.close()
    with duckdb.connect(str(tmp_path / "rows.duckdb")) as database:
        database.execute("create table rows as select repeat(?, 50) as text", [MARKED[1]])
    (tmp_path / "page.html").write_text(MARKED[2], encoding="utf-8")
    (tmp_path / "quiet.html").write_text("nothing", encoding="utf-8")
    assert [path.name for path in holding(tmp_path)] == ["page.html", "rows.db", "rows.duckdb"]


def test_no_command_prints_or_stores_a_secret(tmp_path: Path, tiny_checkpoint: Path) -> None:
    study = make_study(tmp_path / "study", tiny_checkpoint)
    study.experiment(checks={"accuracy_above_shuffled": "block"})  # which a random model cannot pass
    dotenv = tmp_path / "a.env"
    dotenv.write_text("".join(f"{name}={value}\n" for name, value in _IN_FILE.items()), encoding="utf-8")
    environment = {**study.environment, **_IN_ENVIRONMENT, "BACKTRACKING_DOTENV": str(dotenv)}

    def run(*arguments: str) -> Finished:
        return backtracking(*arguments, environment=environment, folder=tmp_path)

    file = str(study.file)
    one_subset = ("--layer-subset", "attn_1")
    failing = run("sweep", file, *one_subset)
    assert failing.code == 1
    assert "Failed: attn_1 at 1" in failing.stdout
    study.experiment()
    ran = {
        "sweep": run("sweep", file, *one_subset),
        "doctor": run("doctor", file),
        "doctor --json": run("doctor", file, "--json"),
        "status": run("status", file),
        "report": run("report", file),
        "push": run("push", str(tmp_path / "bundle"), file),
        "--help": run("--help"),
    }
    assert {name: found.code for name, found in ran.items()} == dict.fromkeys(ran, 0)
    # A value in a mistake is not echoed either.
    ran["a mistake"] = run("status", f"/nowhere/{MARKED[0]}.yaml")
    assert ran["a mistake"].code == 2
    assert "***" in ran["a mistake"].stderr
    assert "set" in ran["doctor --json"].stdout
    said = "".join(found.stdout + found.stderr for found in [failing, *ran.values()])
    assert [mark for mark in MARKED if mark in said] == []
    assert (study.home / "dagster_home" / "history").is_dir()
    assert study.layout.database.exists()
    assert holding(study.home) == []
    # Objects of a bundle are named by their sum, so Parquet is told by its first bytes.
    assert (tmp_path / "bundle" / "tiny" / "manifest.json").is_file()
    for stored in (tmp_path / "bundle").rglob("*"):
        if stored.is_file() and stored.read_bytes()[:4] == b"PAR1":
            stored.rename(stored.with_name(f"{stored.name}.parquet"))
    assert holding(tmp_path / "bundle") == []


def test_a_failure_that_holds_a_secret_is_stored_without_it(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path / "study", tiny_checkpoint)

    def refused(*arguments, **options):
        try:
            raise ConnectionError(f"401 for https://user:{MARKED[0]}@hub/model")
        except ConnectionError as error:
            raise RuntimeError("the hub refused") from error

    monkeypatch.setenv("HF_TOKEN", MARKED[0])
    monkeypatch.setattr(measuring, "detect", refused)
    with study.active(), open_instance() as instance:
        result = run_cell(instance, study.experiment(), Cell("attn_1", 1.0))
    assert not result.success
    failure = result.failure_data_for_node("tiny__detections")
    assert failure is not None
    assert failure.user_failure_data is not None
    assert failure.user_failure_data.description == "RuntimeError: the hub refused"
    assert holding(study.home) == []


def test_the_dotenv_file_is_read_and_what_is_set_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dotenv = tmp_path / "a.env"
    dotenv.write_text("MARKED_ONE=from the file\nMARKED_TWO=from the file\n", encoding="utf-8")
    for name in ("MARKED_ONE", "MPLBACKEND", "DAGSTER_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MARKED_TWO", "from outside")
    monkeypatch.setenv("BACKTRACKING_DOTENV", str(dotenv))
    prepare_environment()
    assert (os.environ["MARKED_ONE"], os.environ["MARKED_TWO"]) == ("from the file", "from outside")
    monkeypatch.delenv("MARKED_ONE")
