"""Imported runs of other studies: kept as Parquet, so that they outlive the database, and stored in it by one
transaction.

A run's tables are files named after the digest of what was imported; `imported_runs.parquet`, replaced last, says which
of them hold. A run that is imported again and cut off leaves the earlier one whole.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from backtracking_assets.conditions import digest
from backtracking_assets.errors import StorageError
from backtracking_assets.storage.database import DEFAULT_WAIT, reading, writing
from backtracking_assets.storage.durable import make_folder, remove_stale_temporaries, write_text_durably
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.parquet import read_parquet, write_parquet
from backtracking_assets.storage.rows import conform
from backtracking_assets.storage.statements import insert_rows
from backtracking_assets.storage.tables import TABLES

RUNS = "imported_runs"
PARTS = ("imported_events", "imported_figures", "imported_faults", "imported_unreadable")
SELECTED_FILE = "selected_components.json"
CRITERION = "the study's selected_layers.json: the largest drop of the onset token's logit"

_PART = re.compile(r"(?P<table>\w+)-(?P<digest>[0-9a-f]{16})\.parquet")


@dataclass
class RestoredRuns:
    """What of the kept runs went into a database."""

    runs: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    """Why a run could not be restored, by its folder's name."""


def store_run(
    layout: StoreLayout,
    tables: Mapping[str, pa.Table],
    selected: Mapping[str, tuple[int, ...]] | None,
    *,
    wait: float = DEFAULT_WAIT,
) -> None:
    """Keep an imported run, and replace its rows in the database by one transaction.

    Args:
        tables: `imported_runs`, with one row, and the tables of `PARTS`, all of that run.
        selected: layers by `attention` and `mlp`, the best first; None where the run has no selection.

    Raises:
        StorageError: a table does not fit, or nothing can be written; the database is as it was then.
    """
    fitting = {name: conform(tables[name], TABLES[name].schema) for name in (RUNS, *PARTS)}
    row = fitting[RUNS].to_pylist()[0]
    folder = layout.imported / row["run_id"]
    make_folder(layout.imported)
    make_folder(folder)
    remove_stale_temporaries(folder)
    for name in PARTS:
        write_parquet(fitting[name], _part(folder, name, row["import_digest"]), _facts(name, row))
    write_parquet(fitting[RUNS], folder / f"{RUNS}.parquet", {"table": RUNS, "run_id": row["run_id"]})
    _replace_rows(layout, row["run_id"], fitting, wait)
    _write_selected(folder, selected)
    _remove_other_parts(folder, row["import_digest"])


def restore_runs(layout: StoreLayout, *, wait: float = DEFAULT_WAIT) -> RestoredRuns:
    """Store every run that is kept on disk in the database.

    Raises:
        StorageError: the database cannot be written.
    """
    restored = RestoredRuns()
    for folder in sorted(layout.imported.glob("*/")) if layout.imported.is_dir() else ():
        try:
            tables = _kept_tables(folder)
        except StorageError as error:
            restored.refused[folder.name] = str(error)
            continue
        _replace_rows(layout, folder.name, tables, wait)
        restored.runs.append(folder.name)
    return restored


def imported_rows(
    layout: StoreLayout, name: str, run_id: str | None = None, *, wait: float = DEFAULT_WAIT
) -> list[dict[str, Any]]:
    """Rows of a table of imported runs in the order of its key; of one run where given."""
    table = TABLES[name]
    where, parameters = (" where run_id = ?", [run_id]) if run_id is not None else ("", [])
    order = ", ".join(f'"{column}"' for column in table.key)
    with reading(layout, wait=wait) as connection:
        found = connection.sql(f'select * from "{name}"{where} order by {order}', params=parameters).to_arrow_table()
    return conform(found, table.schema).to_pylist()


def imported_digests(layout: StoreLayout, *, wait: float = DEFAULT_WAIT) -> dict[str, str]:
    """The digest of each imported run by its id."""
    return {row["run_id"]: row["import_digest"] for row in imported_rows(layout, RUNS, wait=wait)}


def selection_of(layout: StoreLayout, run_id: str) -> Path:
    """Where the selected components of an imported run stand."""
    return layout.imported / run_id / SELECTED_FILE


def _replace_rows(layout: StoreLayout, run_id: str, tables: Mapping[str, pa.Table], wait: float) -> None:
    with writing(layout, wait=wait) as connection:
        for name, table in tables.items():
            connection.execute(f'delete from "{name}" where run_id = ?', [run_id])
            if table.num_rows:
                insert_rows(connection, name, table)


def _kept_tables(folder: Path) -> dict[str, pa.Table]:
    expected = {"table": RUNS, "run_id": folder.name}
    runs = read_parquet(folder / f"{RUNS}.parquet", schema=TABLES[RUNS].schema, expected=expected)
    if runs.num_rows != 1:
        raise StorageError(f"{folder / RUNS}.parquet has {runs.num_rows} rows where one run was expected.")
    row = runs.to_pylist()[0]
    parts = {
        name: read_parquet(
            _part(folder, name, row["import_digest"]), schema=TABLES[name].schema, expected=_facts(name, row)
        )
        for name in PARTS
    }
    return {RUNS: runs, **parts}


def _part(folder: Path, name: str, import_digest: str) -> Path:
    return folder / f"{name}-{import_digest[:16]}.parquet"


def _facts(name: str, row: Mapping[str, Any]) -> dict[str, str]:
    return {"table": name, "run_id": row["run_id"], "import_digest": row["import_digest"]}


def _write_selected(folder: Path, selected: Mapping[str, tuple[int, ...]] | None) -> None:
    path = folder / SELECTED_FILE
    if selected is None:
        path.unlink(missing_ok=True)
        return
    import json

    content = {"criterion": CRITERION, "attention": list(selected["attention"]), "mlp": list(selected["mlp"])}
    write_text_durably(path, json.dumps({"digest": digest(content), **content}, indent=2) + "\n")


def _remove_other_parts(folder: Path, import_digest: str) -> None:
    for path in folder.glob("*.parquet"):
        match = _PART.fullmatch(path.name)
        if match is not None and match["digest"] != import_digest[:16]:
            with suppress(OSError):
                path.unlink()
