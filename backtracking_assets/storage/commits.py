"""The transactions that write the database. Each is delete-then-insert, so that a repetition changes nothing.

A cell's metrics, comparisons and checks are removed in the very transaction that changes what they were computed from,
and results of something else are refused: what stands in these tables describes the cells as they are.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa

from backtracking_assets.conditions import Condition, canonical_json, digest
from backtracking_assets.errors import StorageError
from backtracking_assets.fault_points import reached
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import Cell, Subject
from backtracking_assets.storage.archive import CONTENT_COLUMNS, read_archive
from backtracking_assets.storage.database import DEFAULT_WAIT, writing
from backtracking_assets.storage.input_commits import NO_INPUTS, Inputs, put_inputs
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.rows import conform, table_of
from backtracking_assets.storage.statements import (
    CELL_LINKS,
    VARIANT_LINKS,
    count,
    delete_cell_rows,
    insert_rows,
    key_of,
    links_in,
    links_of,
    named,
    put_row,
    remove_results,
    subject_of,
    subjects_in,
)
from backtracking_assets.storage.tables import TABLES


def commit_condition(layout: StoreLayout, condition: Condition, *, run_id: str, wait: float = DEFAULT_WAIT) -> int:
    """Replace a condition's rows by those of its archive; how many completions it has.

    Where a stored completion is not in the archive with the same content, what was computed from the condition's
    completions is removed with it.

    Raises:
        DamagedFileError: there is no usable archive.
        StorageError: the database cannot be written; nothing is changed then.
    """
    fingerprint = condition.fingerprint
    completions = read_archive(layout, fingerprint)
    with writing(layout, wait=wait) as connection:
        if _loses_content(connection, fingerprint, completions):
            _remove_derived(connection, fingerprint)
        connection.execute("delete from completions where fingerprint = ?", [fingerprint])
        reached("condition half replaced", fingerprint)
        insert_rows(connection, "completions", completions)
        connection.execute("delete from conditions where fingerprint = ?", [fingerprint])
        insert_rows(connection, "conditions", _condition_row(condition, completions, run_id))
    return completions.num_rows


def link_cell(
    layout: StoreLayout,
    cell: Subject,
    *,
    fingerprint: str,
    problem_set_digest: str,
    n_samples: int,
    run_id: str,
    inputs: Inputs = NO_INPUTS,
    wait: float = DEFAULT_WAIT,
) -> int:
    """Point a cell or a prompt variant to a condition, a set of problems and the first `n_samples` samples of each.

    Returns how many completions that are.

    Args:
        inputs: what the completions are asked of, stored in the same transaction.

    Raises:
        StorageError: the problem set is not stored, or a completion of the cell is missing.
    """
    links = links_of(cell)
    with writing(layout, wait=wait) as connection:
        put_inputs(connection, inputs)
        n_completions = _counted(connection, cell, fingerprint, problem_set_digest, n_samples)
        unchanged = connection.execute(
            f"""
            select rules_digest, linked from "{links.table}"
            where {links.where} and fingerprint = ? and problem_set_digest = ? and n_samples = ?
            """,
            [*key_of(cell), fingerprint, problem_set_digest, n_samples],
        ).fetchone()
        if not unchanged:
            remove_results(connection, cell)
        delete_cell_rows(connection, links.table, cell)
        row = {
            **dict(zip(links.key, key_of(cell), strict=True)),
            "fingerprint": fingerprint,
            "problem_set_digest": problem_set_digest,
            "n_samples": n_samples,
            "n_completions": n_completions,
            "rules_digest": unchanged[0] if unchanged else None,
            # By what the tables say, not by what this run generated: a run that goes on after a crash says the same.
            "linked": unchanged[1] if unchanged else _is_shared(connection, fingerprint),
            "run_id": run_id,
            "committed_at": datetime.now(UTC),
        }
        insert_rows(connection, links.table, table_of([row], TABLES[links.table].schema))
    return n_completions


def _counted(
    connection: duckdb.DuckDBPyConnection, cell: Subject, fingerprint: str, problem_set_digest: str, n_samples: int
) -> int:
    """Completions of a condition's problems and first samples; raises where one is missing."""
    counted = connection.execute(
        """
        select count(distinct problem_sets.problem_id), count(completions.sample_id)
        from problem_sets
        left join (select * from completions where fingerprint = $fingerprint and sample_id < $n_samples) as completions
            using (problem_id)
        where problem_sets.problem_set_digest = $problems
        """,
        {"fingerprint": fingerprint, "n_samples": n_samples, "problems": problem_set_digest},
    ).fetchall()
    n_problems, n_completions = counted[0]
    if n_problems == 0:
        raise StorageError(f"{named(cell)}: its problem set {problem_set_digest[:12]} is not in the database.")
    if n_completions != n_problems * n_samples:
        raise StorageError(
            f"{named(cell)} has {n_completions} of its {n_problems * n_samples} completions in the database; "
            f"run the same command again, which generates what is missing."
        )
    return n_completions


def _is_shared(connection: duckdb.DuckDBPyConnection, fingerprint: str) -> bool:
    """Whether a cell or a variant points to a condition."""
    tables = (CELL_LINKS.table, VARIANT_LINKS.table)
    return any(count(connection, f'select count(*) from "{t}" where fingerprint = ?', [fingerprint]) for t in tables)


def write_detections(
    layout: StoreLayout,
    detections: pa.Table,
    *,
    cell: Subject | None = None,
    rules: Mapping[str, Any] | None = None,
    checks: pa.Table | None = None,
    wait: float = DEFAULT_WAIT,
) -> None:
    """Replace the detections of the given completions by the given rules; with `cell`, make them that cell's.

    `rules` are kept beside their digest, so that a later reader can say what has changed since. `checks` are those of
    the cell's detections, stored with them as by `write_checks`.

    Raises:
        StorageError: the table is empty, mixes conditions or rules, names a completion that is not stored, leaves one
            of the cell's completions out, or was made by other rules than `rules`.
    """
    table = _not_empty(conform(detections, TABLES["detections"].schema), "detections")
    fingerprint, rules_digest = _only(table, "fingerprint"), _only(table, "rules_digest")
    with writing(layout, wait=wait) as connection:
        connection.register("incoming", table)
        orphans = count(
            connection,
            """
            select count(*) from incoming
            anti join (select problem_id, sample_id from completions where fingerprint = ?)
                using (problem_id, sample_id)
            """,
            [fingerprint],
        )
        if orphans:
            raise StorageError(f"{orphans} detections belong to no stored completion of {fingerprint[:12]}.")
        connection.execute(
            """
            delete from detections using incoming
            where detections.fingerprint = ? and detections.rules_digest = ?
                and detections.problem_id = incoming.problem_id and detections.sample_id = incoming.sample_id
            """,
            [fingerprint, rules_digest],
        )
        connection.execute("insert into detections by name select * from incoming")
        connection.unregister("incoming")
        if rules is not None:
            _keep_settings(connection, "detection", rules_digest, rules)
        if cell is not None:
            _adopt_rules(connection, cell, fingerprint, rules_digest)
        if checks is not None:
            _replace_checks(connection, checks)


def write_metrics(
    layout: StoreLayout,
    metrics: pa.Table,
    *,
    statistics: Mapping[str, Any] | None = None,
    checks: pa.Table | None = None,
    wait: float = DEFAULT_WAIT,
) -> None:
    """Replace the metrics of every cell, or of every variant, in the table. `statistics` are kept beside their digest.

    `checks` are those of the metrics of one of them, stored with them as by `write_checks`.

    Raises:
        StorageError: the table is empty, a cell is not what its metrics were computed from, or they were computed by
            other statistics than `statistics`.
    """
    links = links_in(metrics)
    table = _not_empty(conform(metrics, TABLES[links.metrics].schema), "metrics")
    with writing(layout, wait=wait) as connection:
        _refuse_outdated(connection, table, "metrics")
        for subject in subjects_in(table):
            delete_cell_rows(connection, links.metrics, subject)
        insert_rows(connection, links.metrics, table)
        if statistics is not None:
            _keep_settings(connection, "statistics", _only(table, "statistics_digest"), statistics)
        if checks is not None:
            _replace_checks(connection, checks)


def write_comparisons(
    layout: StoreLayout, comparisons: pa.Table, *, cells: Sequence[Cell] | None = None, wait: float = DEFAULT_WAIT
) -> None:
    """Replace the comparisons of the given cells; of all cells where none are given, as Holm's correction needs it.

    Raises:
        StorageError: a row belongs to none of the given cells, or a cell is not what its comparison was computed from.
    """
    table = conform(comparisons, TABLES["comparisons"].schema)
    if cells is not None and (strangers := set(subjects_in(table)) - set(cells)):
        raise StorageError(f"Comparisons were given for another cell: {min(map(str, strangers))}.")
    with writing(layout, wait=wait) as connection:
        _refuse_outdated(connection, table, "comparisons")
        if cells is None:
            connection.execute("delete from comparisons")
        for cell in cells or ():
            delete_cell_rows(connection, "comparisons", cell)
        insert_rows(connection, "comparisons", table)


def write_checks(layout: StoreLayout, checks: pa.Table, *, wait: float = DEFAULT_WAIT) -> None:
    """Replace the outcomes of the checks of one asset of a cell or a variant.

    Raises:
        StorageError: the table is empty or mixes cells or assets, or the cell was never linked to a condition.
    """
    with writing(layout, wait=wait) as connection:
        _replace_checks(connection, checks)


def _replace_checks(connection: duckdb.DuckDBPyConnection, checks: pa.Table) -> None:
    links = links_in(checks)
    table = _not_empty(conform(checks, TABLES[links.checks].schema), "checks")
    subjects, asset = subjects_in(table), _only(table, "asset")
    if len(subjects) != 1:
        raise StorageError(f"Checks of one cell at a time are stored; {len(subjects)} were given.")
    subject = subjects[0]
    if not count(connection, f'select count(*) from "{links.table}" where {links.where}', key_of(subject)):
        raise StorageError(f"{named(subject)} was never linked to a condition, so its checks are of nothing.")
    delete_cell_rows(connection, links.checks, subject, assets=[asset])
    insert_rows(connection, links.checks, table)


def _keep_settings(connection: duckdb.DuckDBPyConnection, kind: str, name: str, settings: Mapping[str, Any]) -> None:
    if digest(settings) != name:
        raise StorageError(f"The {kind} settings are not those of digest {name[:12]}; nothing was stored.")
    row = {"digest": name, "kind": kind, "content": canonical_json(settings)}
    put_row(connection, "settings", row)


def _condition_row(condition: Condition, completions: pa.Table, run_id: str) -> pa.Table:
    intervention = condition.intervention
    row = {
        "fingerprint": condition.fingerprint,
        "condition": condition.canonical_json(),
        "weights_digest": condition.weights_digest,
        "tokenizer_digest": condition.tokenizer_digest,
        "dtype": condition.dtype,
        "temperature": condition.temperature,
        "top_p": condition.top_p,
        "max_new_tokens": condition.max_new_tokens,
        "seed": condition.seed,
        "scale": intervention.scale if intervention else BASELINE_SCALE,
        "components": [f"{kind}.{layer}" for layer, kind in intervention.components] if intervention else [],
        "n_completions": completions.num_rows,
        "created_at": min(completions.column("generated_at").to_pylist()),
        "run_id": run_id,
    }
    return table_of([row], TABLES["conditions"].schema)


def _loses_content(connection: duckdb.DuckDBPyConnection, fingerprint: str, completions: pa.Table) -> bool:
    """Whether a stored completion is missing from the table, or stands there with other content."""
    if not count(connection, "select count(*) from completions where fingerprint = ?", [fingerprint]):
        return False
    connection.register("incoming", completions)
    same = " and ".join(f"stored.{name} = incoming.{name}" for name in CONTENT_COLUMNS)
    lost = count(
        connection,
        f"""
        select count(*) from completions stored
        anti join incoming
            on stored.problem_id = incoming.problem_id and stored.sample_id = incoming.sample_id and {same}
        where stored.fingerprint = ?
        """,
        [fingerprint],
    )
    connection.unregister("incoming")
    return lost > 0


def _remove_derived(connection: duckdb.DuckDBPyConnection, fingerprint: str) -> None:
    connection.execute("delete from detections where fingerprint = ?", [fingerprint])
    connection.execute("delete from comparisons where baseline_fingerprint = ?", [fingerprint])
    for links in (CELL_LINKS, VARIANT_LINKS):
        columns = ", ".join(links.key)
        sql = f'select {columns} from "{links.table}" where fingerprint = ?'
        for values in connection.execute(sql, [fingerprint]).fetchall():
            remove_results(connection, subject_of(values))
        connection.execute(f'update "{links.table}" set rules_digest = null where fingerprint = ?', [fingerprint])


def _adopt_rules(connection: duckdb.DuckDBPyConnection, cell: Subject, fingerprint: str, rules_digest: str) -> None:
    links, key = links_of(cell), key_of(cell)
    sql = f'select fingerprint, rules_digest from "{links.table}" where {links.where}'
    rows = connection.execute(sql, key).fetchall()
    if not rows or rows[0][0] != fingerprint:
        raise StorageError(f"{named(cell)} does not point to condition {fingerprint[:12]}; link it before detection.")
    if rows[0][1] != rules_digest:
        remove_results(connection, cell, keep_generation_checks=True)
    connection.execute(f'update "{links.table}" set rules_digest = ? where {links.where}', [rules_digest, *key])
    unread = count(
        connection,
        f"""
        select count(*) from "{links.table}" as links
        join problem_sets using (problem_set_digest)
        join (select problem_id, sample_id from completions where fingerprint = ?) as completions
            on completions.problem_id = problem_sets.problem_id and completions.sample_id < links.n_samples
        anti join (select problem_id, sample_id from detections where fingerprint = ? and rules_digest = ?) as read
            on read.problem_id = completions.problem_id and read.sample_id = completions.sample_id
        where {links.where}
        """,
        # By value, so that the two large tables are read where these rows are; through a join all of them would be.
        [fingerprint, fingerprint, rules_digest, *key],
    )
    if unread:
        raise StorageError(f"{named(cell)}: {unread} of its completions have no detection by these rules.")


def _refuse_outdated(connection: duckdb.DuckDBPyConnection, table: pa.Table, what: str) -> None:
    links = links_in(table)
    columns = ", ".join(links.key)
    connection.register("incoming", table)
    rows = connection.execute(
        f"""
        select distinct {columns} from incoming
        anti join "{links.table}" using ({columns}, fingerprint, problem_set_digest, rules_digest)
        order by all
        """
    ).fetchall()
    connection.unregister("incoming")
    if rows:
        subject = subject_of(rows[0])
        raise StorageError(
            f"{named(subject)} has changed since its {what} were computed; run its detections and metrics again."
        )


def _not_empty(table: pa.Table, what: str) -> pa.Table:
    if table.num_rows == 0:
        raise StorageError(f"There are no {what} to store; an empty result is an error.")
    return table


def _only(table: pa.Table, column: str) -> str:
    values = table.column(column).unique().to_pylist()
    if len(values) != 1:
        raise StorageError(f"Rows of one {column} at a time are stored; {len(values)} were given.")
    return values[0]
