"""The page about the database names every column, and its queries run."""

import re
from pathlib import Path
from typing import Any

import pytest

from backtracking_assets.conditions import Composition
from backtracking_assets.records import Cell
from backtracking_assets.storage.commits import link_cell, write_comparisons, write_detections, write_metrics
from backtracking_assets.storage.database import reading
from backtracking_assets.storage.input_commits import write_layer_subset, write_problem_set
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.tables import TABLES
from backtracking_assets_tests.unit.storage_samples import (
    ABLATED,
    BASELINE,
    comparison_of,
    condition,
    detections_of,
    generate,
    keys,
    metrics_of,
    problems,
)

PAGE = (Path(__file__).parents[2] / "docs" / "database.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def small_study(tmp_path_factory: pytest.TempPathFactory) -> StoreLayout:
    """A baseline and an ablated cell of two problems, measured and compared."""
    layout = StoreLayout(tmp_path_factory.mktemp("study"))
    base = condition(BASELINE.scale).fingerprint
    wanted = keys(2, 2)
    for cell in (BASELINE, ABLATED):
        of = condition(cell.scale)
        generate(layout, of, wanted)
        digest = write_problem_set(layout, problems(2))
        _link(layout, cell, of.fingerprint, digest)
        write_detections(layout, detections_of(of.fingerprint, wanted, onset_character=15), cell=cell)
        write_metrics(layout, metrics_of(cell, of.fingerprint, digest))
        comparison = comparison_of(cell, of.fingerprint, base, digest, p_holm=0.01)
        write_comparisons(layout, comparison, cells=[cell])
    write_layer_subset(layout, "mlp_27_only", Composition(((27, "mlp"),)))
    return layout


def _link(layout: StoreLayout, cell: Cell, fingerprint: str, digest: str) -> None:
    link_cell(
        layout,
        cell,
        fingerprint=fingerprint,
        problem_set_digest=digest,
        n_samples=2,
        run_id="run-1",
    )


def test_the_page_has_six_queries() -> None:
    assert len(QUERIES) == 6


@pytest.mark.parametrize("sql", QUERIES, ids=lambda sql: sql.split()[0])
def test_every_query_of_the_page_gives_rows(small_study: StoreLayout, sql: str) -> None:
    with reading(small_study) as connection:
        assert connection.sql(sql).to_arrow_table().num_rows > 0


def test_the_onset_is_in_the_middle_of_what_the_page_shows(small_study: StoreLayout) -> None:
    sql = next(sql for sql in QUERIES if "around_onset" in sql)
    with reading(small_study) as connection:
        assert all("Wait" in row[-1] for row in connection.execute(sql).fetchall())


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_the_page_names_every_column_and_key(table: object) -> None:
    assert isinstance(table, type(TABLES["cells"]))
    section = re.search(rf"### `{table.name}`.*?(?=\n##)", PAGE, flags=re.DOTALL)
    assert section is not None
    key = re.search(r"^Key: (.*)\.$", section.group(), flags=re.MULTILINE)
    assert key is not None
    assert re.findall(r"`(\w+)`", key.group(1)) == list(table.key)
    rows = [line.split("|")[1] for line in section.group().splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(table.schema.names)


def test_the_view_of_events_has_a_row_for_each_trigger(tmp_path: Path) -> None:
    layout = StoreLayout(tmp_path)
    of, wanted = condition(BASELINE.scale), keys(2, 1)
    generate(layout, of, wanted)
    lists: dict[str, Any] = {
        "event_phrases": ["Wait", "mistake"],
        "event_kinds": ["strict", "relaxed"],
        "event_starts": [3, 20],
        "event_ends": [7, 27],
        "event_tokens": [1, 5],
        "event_classes": ["genuine", "filler"],
    }
    none: dict[str, Any] = {name: [] for name in lists}
    write_detections(layout, detections_of(of.fingerprint, wanted[:1], **lists))
    write_detections(layout, detections_of(of.fingerprint, wanted[1:], **none))
    with reading(layout) as connection:
        rows = connection.sql(
            "select problem_id, event_index, phrase, kind, start_character, end_character, token_index, event_class "
            "from events order by all"
        ).fetchall()
    assert rows == [
        (wanted[0][0], 0, "Wait", "strict", 3, 7, 1, "genuine"),
        (wanted[0][0], 1, "mistake", "relaxed", 20, 27, 5, "filler"),
    ]
