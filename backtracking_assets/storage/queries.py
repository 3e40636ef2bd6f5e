"""Reads of the database. Tables come back as Arrow, in the schema and order of their key."""

from collections.abc import Sequence
from typing import Any, Literal

import pyarrow as pa

from backtracking_assets.conditions import Condition
from backtracking_assets.records import Cell, Problem
from backtracking_assets.storage.database import DEFAULT_WAIT, reading
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.rows import Key, conform, keys_of
from backtracking_assets.storage.tables import TABLES

ScanTable = Literal[
    "lens_positions",
    "lens_summaries",
    "scan_positions",
    "component_effects",
    "component_summaries",
    "selected_components",
]


def cells(layout: StoreLayout, *, scale: float | None = None, wait: float = DEFAULT_WAIT) -> pa.Table:
    """All cells that were linked to a condition, or those at one scale."""
    return _rows(layout, "cells", {} if scale is None else {"scale": scale}, wait)


def cell_row(layout: StoreLayout, cell: Cell, *, wait: float = DEFAULT_WAIT) -> dict[str, Any] | None:
    """One cell's row by column name; None where the cell was never linked."""
    rows = _rows(layout, "cells", _only(cell), wait).to_pylist()
    return rows[0] if rows else None


def conditions(layout: StoreLayout, *, wait: float = DEFAULT_WAIT) -> pa.Table:
    """All conditions that have completions in the database."""
    return _rows(layout, "conditions", {}, wait)


def condition(layout: StoreLayout, fingerprint: str, *, wait: float = DEFAULT_WAIT) -> Condition | None:
    """The condition of a fingerprint; None where it has no completions in the database."""
    rows = _rows(layout, "conditions", {"fingerprint": fingerprint}, wait).to_pylist()
    return Condition.model_validate_json(rows[0]["condition"]) if rows else None


def problems(layout: StoreLayout, problem_set_digest: str, *, wait: float = DEFAULT_WAIT) -> list[Problem]:
    """The problems of a set, sorted by id; empty where the set is not stored."""
    rows = _rows(layout, "problem_sets", {"problem_set_digest": problem_set_digest}, wait).to_pylist()
    return [Problem(row["problem_id"], row["question"], row["answer"]) for row in rows]


def layer_subsets(layout: StoreLayout, *, wait: float = DEFAULT_WAIT) -> pa.Table:
    """All layer subsets and what they are made of."""
    return _rows(layout, "layer_subsets", {}, wait)


def completions(
    layout: StoreLayout,
    fingerprint: str,
    *,
    problem_set_digest: str | None = None,
    n_samples: int | None = None,
    wait: float = DEFAULT_WAIT,
) -> pa.Table:
    """A condition's completions, of one problem set and the first `n_samples` samples of each problem where given."""
    wanted = {"fingerprint": fingerprint}
    return _rows(layout, "completions", wanted, wait, problem_set_digest=problem_set_digest, n_samples=n_samples)


def detections(
    layout: StoreLayout,
    fingerprint: str,
    rules_digest: str,
    *,
    problem_set_digest: str | None = None,
    n_samples: int | None = None,
    wait: float = DEFAULT_WAIT,
) -> pa.Table:
    """A condition's detections by one set of rules; see `completions`."""
    wanted = {"fingerprint": fingerprint, "rules_digest": rules_digest}
    return _rows(layout, "detections", wanted, wait, problem_set_digest=problem_set_digest, n_samples=n_samples)


def metrics(layout: StoreLayout, cell: Cell | None = None, *, wait: float = DEFAULT_WAIT) -> pa.Table:
    """The metrics of all cells or of one, each computed from the cell as it is now."""
    return _rows(layout, "metrics", _only(cell), wait)


def measured_by(layout: StoreLayout, *, wait: float = DEFAULT_WAIT) -> dict[Cell, str]:
    """The digest of the statistics that each measured cell's metrics were computed by."""
    sql = "select layer_subset, scale, any_value(statistics_digest) as by from metrics group by all order by all"
    rows = _query(layout, sql, [], wait).to_pylist()
    return {Cell(row["layer_subset"], row["scale"]): row["by"] for row in rows}


def comparisons(layout: StoreLayout, *, wait: float = DEFAULT_WAIT) -> pa.Table:
    """The comparisons with the baseline, each computed from the cell as it is now."""
    return _rows(layout, "comparisons", {}, wait)


def checks(
    layout: StoreLayout, cell: Cell | None = None, *, scale: float | None = None, wait: float = DEFAULT_WAIT
) -> pa.Table:
    """The outcomes of the checks of all cells, of one, or of those at one scale."""
    return _rows(layout, "checks", _only(cell) if scale is None else {"scale": scale}, wait)


def failing_checks(layout: StoreLayout, *, scale: float | None = None, wait: float = DEFAULT_WAIT) -> pa.Table:
    """The outcomes of checks that must hold and do not, of all cells or of those at one scale."""
    wanted = {"severity": "error", "passed": False}
    return _rows(layout, "checks", wanted if scale is None else {**wanted, "scale": scale}, wait)


def variants(layout: StoreLayout, *, wait: float = DEFAULT_WAIT) -> pa.Table:
    """All prompt variants that were linked to a condition."""
    return _rows(layout, "variants", {}, wait)


def variant_metrics(layout: StoreLayout, *, wait: float = DEFAULT_WAIT) -> pa.Table:
    """The metrics of all prompt variants, each computed from the variant as it is now."""
    return _rows(layout, "variant_metrics", {}, wait)


def variant_checks(layout: StoreLayout, *, wait: float = DEFAULT_WAIT) -> pa.Table:
    """The outcomes of the checks of all prompt variants."""
    return _rows(layout, "variant_checks", {}, wait)


def formatting(layout: StoreLayout, *, wait: float = DEFAULT_WAIT) -> pa.Table:
    """The prompt variants side by side; computed from what its `inputs_digest` stands for."""
    return _rows(layout, "formatting", {}, wait)


def condition_comparison(layout: StoreLayout, *, wait: float = DEFAULT_WAIT) -> pa.Table:
    """Baseline, targeted subset and random controls side by side; see `formatting`."""
    return _rows(layout, "condition_comparison", {}, wait)


def backtracking_accuracy(layout: StoreLayout, *, wait: float = DEFAULT_WAIT) -> pa.Table:
    """Backtracking against accuracy in the baseline of each prompt variant; see `formatting`."""
    return _rows(layout, "backtracking_accuracy", {}, wait)


def continuation_positions(layout: StoreLayout, *, wait: float = DEFAULT_WAIT) -> pa.Table:
    """What the continuation ablation measured at each position."""
    return _rows(layout, "continuation_positions", {}, wait)


def continuation_samples(layout: StoreLayout, *, wait: float = DEFAULT_WAIT) -> pa.Table:
    """What became of the continuations that were sampled at each position."""
    return _rows(layout, "continuation_samples", {}, wait)


def continuation_summaries(layout: StoreLayout, *, wait: float = DEFAULT_WAIT) -> pa.Table:
    """The continuation ablation in figures, computed from the baseline as it is now."""
    return _rows(layout, "continuation_summaries", {}, wait)


def positive_control_components(layout: StoreLayout, *, wait: float = DEFAULT_WAIT) -> pa.Table:
    """How the scan ranks every component, beside the truth about it."""
    return _rows(layout, "positive_control_components", {}, wait)


def positive_control_figures(layout: StoreLayout, *, wait: float = DEFAULT_WAIT) -> pa.Table:
    """How well the scan and the sweep find what was planted."""
    return _rows(layout, "positive_control_figures", {}, wait)


def scan_table(layout: StoreLayout, name: ScanTable, *, wait: float = DEFAULT_WAIT) -> pa.Table:
    """A table of phase 1's scan, whole."""
    return _rows(layout, name, {}, wait)


def completion_counts(layout: StoreLayout, *, wait: float = DEFAULT_WAIT) -> dict[str, int]:
    """How many completions each condition has, by fingerprint."""
    table = _query(layout, "select fingerprint, count(*) as n from completions group by all order by all", [], wait)
    return dict(zip(table.column("fingerprint").to_pylist(), table.column("n").to_pylist(), strict=True))


def chunk_sizes(layout: StoreLayout, fingerprint: str | None = None, *, wait: float = DEFAULT_WAIT) -> dict[str, int]:
    """How many completions each chunk has, of all conditions or of one, by its id, which holds across conditions."""
    wanted, parameters = ("", []) if fingerprint is None else (" where fingerprint = ?", [fingerprint])
    sql = f"select chunk_id, count(*) as n from completions{wanted} group by all order by all"
    table = _query(layout, sql, parameters, wait)
    return dict(zip(table.column("chunk_id").to_pylist(), table.column("n").to_pylist(), strict=True))


def wanted_counts(
    layout: StoreLayout, problem_ids: Sequence[str], n_samples: int, *, wait: float = DEFAULT_WAIT
) -> dict[str, int]:
    """How many completions of these problems' first `n_samples` samples each condition has, by fingerprint."""
    sql = """
        select fingerprint, count(*) as n from completions
        where list_contains(?, problem_id) and sample_id < ? group by all order by all
    """
    table = _query(layout, sql, [list(problem_ids), n_samples], wait)
    return dict(zip(table.column("fingerprint").to_pylist(), table.column("n").to_pylist(), strict=True))


def completion_keys(layout: StoreLayout, fingerprint: str, *, wait: float = DEFAULT_WAIT) -> set[Key]:
    """Keys of the completions that a condition has in the database."""
    sql = "select problem_id, sample_id from completions where fingerprint = ?"
    return set(keys_of(_query(layout, sql, [fingerprint], wait)))


def detected_keys(layout: StoreLayout, fingerprint: str, rules_digest: str, *, wait: float = DEFAULT_WAIT) -> set[Key]:
    """Keys of the completions that these rules have read."""
    sql = "select problem_id, sample_id from detections where fingerprint = ? and rules_digest = ?"
    return set(keys_of(_query(layout, sql, [fingerprint, rules_digest], wait)))


def _only(cell: Cell | None) -> dict[str, Any]:
    return {} if cell is None else {"layer_subset": cell.layer_subset, "scale": cell.scale}


def _rows(
    layout: StoreLayout,
    name: str,
    wanted: dict[str, Any],
    wait: float,
    *,
    problem_set_digest: str | None = None,
    n_samples: int | None = None,
) -> pa.Table:
    table = TABLES[name]
    tests = [f'"{column}" = ?' for column in wanted]
    parameters = list(wanted.values())
    if problem_set_digest is not None:
        tests.append("problem_id in (select problem_id from problem_sets where problem_set_digest = ?)")
        parameters.append(problem_set_digest)
    if n_samples is not None:
        tests.append("sample_id < ?")
        parameters.append(n_samples)
    where = f" where {' and '.join(tests)}" if tests else ""
    order = ", ".join(f'"{column}"' for column in table.key)
    return conform(_query(layout, f'select * from "{name}"{where} order by {order}', parameters, wait), table.schema)


def _query(layout: StoreLayout, sql: str, parameters: Sequence[Any], wait: float) -> pa.Table:
    with reading(layout, wait=wait) as connection:
        return connection.sql(sql, params=list(parameters)).to_arrow_table()
