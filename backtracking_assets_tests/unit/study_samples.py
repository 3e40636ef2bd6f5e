"""A store with one measured cell, step by step."""

import pyarrow as pa

from backtracking_assets.conditions import problem_set_digest
from backtracking_assets.records import Cell
from backtracking_assets.storage import queries
from backtracking_assets.storage.commits import (
    link_cell,
    write_comparisons,
    write_detections,
    write_metrics,
)
from backtracking_assets.storage.database import reading
from backtracking_assets.storage.input_commits import write_problem_set
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets_tests.unit.storage_samples import (
    RULES,
    comparison_of,
    condition,
    detections_of,
    generate,
    keys,
    metrics_of,
    problems,
)

BASE, LESS = condition(1.0), condition(0.0)
DIGEST = problem_set_digest(problems(2))


def link(layout: StoreLayout, cell: Cell, n_problems: int = 2, n_samples: int = 2) -> str:
    digest = write_problem_set(layout, problems(n_problems))
    of = BASE if cell.scale == 1.0 else LESS
    link_cell(
        layout,
        cell,
        fingerprint=of.fingerprint,
        problem_set_digest=digest,
        n_samples=n_samples,
        run_id="run-1",
    )
    return digest


def measure(layout: StoreLayout, cell: Cell) -> None:
    of = BASE if cell.scale == 1.0 else LESS
    generate(layout, of, keys(2, 2))
    link(layout, cell)
    write_detections(layout, detections_of(of.fingerprint, keys(2, 2)), cell=cell)
    write_metrics(layout, metrics_of(cell, of.fingerprint, DIGEST))
    write_comparisons(layout, comparison_of(cell, of.fingerprint, BASE.fingerprint, DIGEST), cells=[cell])


def generations(layout: StoreLayout, cell: Cell) -> pa.Table:
    with reading(layout) as connection:
        sql = "from generations where layer_subset = ? and scale = ? order by problem_id, sample_id"
        return connection.sql(sql, params=[cell.layer_subset, cell.scale]).to_arrow_table()


def left(layout: StoreLayout) -> dict[str, int]:
    return {
        "detections": queries.detections(layout, LESS.fingerprint, RULES).num_rows,
        "metrics": queries.metrics(layout).num_rows,
        "comparisons": queries.comparisons(layout).num_rows,
    }
