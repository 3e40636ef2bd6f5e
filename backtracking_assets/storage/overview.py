"""What the database holds of a whole study, read in one transaction, so that no write comes in between."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb

from backtracking_assets.records import Cell, Problem, Variant
from backtracking_assets.storage.database import DEFAULT_WAIT, reading
from backtracking_assets.storage.layout import StoreLayout

Row = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """What the comparisons of one cell were computed from."""

    cell: Cell
    fingerprint: str
    baseline_fingerprint: str
    problem_set_digest: str
    rules_digest: str
    statistics_digest: str
    n_comparisons: int


@dataclass(frozen=True)
class Overview:
    """All that tells how far a study is, without a single completion."""

    cells: dict[Cell, Row]
    """Rows of the table of cells."""
    checks: tuple[Row, ...]
    """Rows of `records.CHECKS`."""
    statistics_digests: dict[Cell, str]
    """The statistics by which each cell is measured; a cell that is not measured has none."""
    comparisons: frozenset[Comparison]
    conditions: dict[str, dict[str, Any]]
    """Conditions as JSON values by fingerprint."""
    settings: dict[str, dict[str, Any]]
    """Detection rules and statistics as JSON values by digest."""
    problem_sets: dict[str, list[Problem]]
    """Problems by the digest of their set."""
    n_wanted: dict[str, int]
    """Completions of the wanted problems and samples by fingerprint."""
    variants: dict[Variant, Row] = field(default_factory=dict)
    """Rows of the table of prompt variants."""
    variant_checks: tuple[Row, ...] = ()
    """Rows of `variant_records.VARIANT_CHECKS`."""
    variant_statistics: dict[Variant, str] = field(default_factory=dict)
    """The statistics by which each variant is measured."""


def overview(
    layout: StoreLayout, problem_ids: Sequence[str], n_samples: int, *, wait: float = DEFAULT_WAIT
) -> Overview:
    """Read all of it.

    Args:
        problem_ids: the problems whose completions are counted.
        n_samples: how many samples of each.

    Raises:
        StorageError: the database cannot be read, or another process holds it for longer than `wait` seconds.
    """
    with reading(layout, wait=wait) as connection:
        connection.begin()
        counted = "select fingerprint, count(*) as n from completions where list_contains(?, problem_id) " + (
            "and sample_id < ? group by all"
        )
        problem_sets: dict[str, list[Problem]] = {}
        for row in _rows(connection, "select * from problem_sets"):
            problem = Problem(row["problem_id"], row["question"], row["answer"])
            problem_sets.setdefault(row["problem_set_digest"], []).append(problem)
        return Overview(
            cells={_cell(row): row for row in _rows(connection, _WITHOUT_TIMES.format("cells"))},
            checks=tuple(_rows(connection, "select * from checks order by layer_subset, scale, asset, name")),
            statistics_digests={
                _cell(row): row["statistics_digest"]
                for row in _rows(connection, "select distinct layer_subset, scale, statistics_digest from metrics")
            },
            comparisons=frozenset(_comparison(row) for row in _rows(connection, _COMPARISONS)),
            conditions={
                row["fingerprint"]: json.loads(row["condition"])
                for row in _rows(connection, "select fingerprint, condition from conditions")
            },
            settings={
                row["digest"]: json.loads(row["content"])
                for row in _rows(connection, "select digest, content from settings")
            },
            problem_sets=problem_sets,
            n_wanted={
                row["fingerprint"]: row["n"] for row in _rows(connection, counted, [list(problem_ids), n_samples])
            },
            variants={Variant(row["variant"]): row for row in _rows(connection, _WITHOUT_TIMES.format("variants"))},
            variant_checks=tuple(_rows(connection, "select * from variant_checks order by variant, asset, name")),
            variant_statistics={
                Variant(row["variant"]): row["statistics_digest"]
                for row in _rows(connection, "select distinct variant, statistics_digest from variant_metrics")
            },
        )


_WITHOUT_TIMES = "select * exclude (committed_at) from {}"
"""Nobody looks at them here, and pyarrow imports pandas to read a time."""

_COMPARISONS = """
    select distinct layer_subset, scale, fingerprint, baseline_fingerprint, problem_set_digest, rules_digest,
        statistics_digest, n_comparisons
    from comparisons
"""


def _rows(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
    return connection.sql(sql, params=list(parameters)).to_arrow_table().to_pylist()


def _cell(row: Row) -> Cell:
    return Cell(row["layer_subset"], row["scale"])


def _comparison(row: Row) -> Comparison:
    facts = {key: value for key, value in row.items() if key not in ("layer_subset", "scale")}
    return Comparison(cell=_cell(row), **facts)
