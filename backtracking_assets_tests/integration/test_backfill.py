"""A sweep after a change redoes what the change concerns and nothing else, and the status says so before."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from backtracking_assets.assets.status import CellStatus
from backtracking_assets.assets.sweep_status import SweepStatus, sweep_status
from backtracking_assets.cli.sweep import run_sweep
from backtracking_assets.records import Cell
from backtracking_assets.storage.database import reading
from backtracking_assets_tests.integration.studies import Study, make_study
from backtracking_assets_tests.tiny import write_problems

BASELINE, ABLATED, OTHER = Cell("attn_1", 1.0), Cell("attn_1", 0.0), Cell("both_0", 0.0)
PLAN = [{"layer_subsets": ["attn_1"]}, {"layer_subsets": ["both_0"], "scales": [0.0]}]
Rows = frozenset[tuple]


@dataclass(frozen=True)
class Store:
    """Who made which row: keys with run ids and times."""

    completions: Rows
    detections: Rows
    metrics: Rows


@dataclass(frozen=True)
class Change:
    """A change of the experiment file: what the status said before the next sweep, and the store after it."""

    before: SweepStatus
    store: Store
    said: str
    after: SweepStatus

    def of(self, cell: Cell) -> CellStatus:
        return next(status for status in self.before.cells if status.cell == cell)


@dataclass(frozen=True)
class Story:
    study: Study
    start: Change
    statistics: Change
    triggers: Change
    layers: Change
    problems: Change


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Story:
    study = make_study(tmp_path_factory.mktemp("study"), tiny_checkpoint)
    changes: dict[str, Mapping[str, Any] | list[Any]] = {"plan": PLAN}

    def change(**sections: Mapping[str, Any]) -> Change:
        changes.update(sections)
        before = sweep_status(study.opened(**changes))
        said = io.StringIO()
        assert run_sweep(str(study.file), [], [], "full_study", Console(file=said, width=200)) == 0
        return Change(before, store_of(study), said.getvalue(), sweep_status(study.opened(**changes)))

    with study.active():
        start = change()
        statistics = change(statistics={"confidence": 0.8})
        triggers = change(detection={"strict": ["Wait", "Hmm"]})
        layers = change(layer_subsets={"both_0": {"mlp": [0]}})
        write_problems(study.problems, 7)
        problems = change(problems={"count": 7})
    return Story(study, start, statistics, triggers, layers, problems)


def store_of(study: Study) -> Store:
    def rows(sql: str) -> Rows:
        with reading(study.layout) as connection:
            return frozenset(connection.execute(sql).fetchall())

    return Store(
        rows("select fingerprint, problem_id, sample_id, run_id, generated_at from completions"),
        rows("select fingerprint, problem_id, sample_id, rules_digest, run_id from detections"),
        rows("select layer_subset, scale, metric, run_id from metrics"),
    )


def all_done(change: Change) -> bool:
    return {status.state for status in change.after.cells} == {"done"} and change.after.is_reported


def test_a_sweep_ends_with_nothing_left_to_do(story: Story) -> None:
    assert {status.next for status in story.start.before.cells} == {"generates 6"}
    for change in (story.start, story.statistics, story.triggers, story.layers, story.problems):
        assert all_done(change)


def test_other_statistics_only_measure_anew(story: Story) -> None:
    before, after = story.start.store, story.statistics.store
    assert {status.next for status in story.statistics.before.cells} == {"measures anew"}
    assert "Nothing to generate." in story.statistics.said
    assert after.completions == before.completions
    assert after.detections == before.detections
    assert len(after.metrics) == len(before.metrics)
    assert not after.metrics & before.metrics


def test_other_triggers_only_read_anew(story: Story) -> None:
    before, after = story.statistics.store, story.triggers.store
    assert {(status.reason, status.next) for status in story.triggers.before.cells} == {
        ("detection: strict triggers +Hmm", "reads anew")
    }
    assert "Nothing to generate." in story.triggers.said
    assert after.completions == before.completions
    assert after.detections > before.detections  # those by the earlier rules stay
    assert not after.metrics & before.metrics


def test_other_layers_generate_their_own_cells_alone(story: Story) -> None:
    change, before, after = story.layers, story.triggers.store, story.layers.store
    assert (change.of(OTHER).state, change.of(OTHER).next) == ("stale", "generates 6")
    assert change.of(OTHER).reason == "layers: attention 0 · mlp 0 → mlp 0"
    assert [change.of(cell).state for cell in (BASELINE, ABLATED)] == ["done", "done"]
    # Whole-sweep results that were made before say of how many cells they are older.
    assert (change.before.page.state, change.before.page.n_changed) == ("older", 1)
    assert (change.before.comparisons.state, change.before.comparisons.n_changed) == ("older", 1)
    assert before.completions < after.completions
    assert len(after.completions - before.completions) == 6
    assert before.detections < after.detections
    anew = {row[:2] for row in after.metrics - before.metrics}
    assert anew == {("both_0", 0.0)}


def test_appended_problems_keep_every_completion(story: Story) -> None:
    change, before, after = story.problems, story.layers.store, story.problems.store
    assert {(status.reason, status.next) for status in change.before.cells} == {
        ("problems: 4 added", "generates 8, keeps 6")
    }
    assert before.completions < after.completions
    assert len(after.completions - before.completions) == 3 * 4 * 2


def test_what_each_row_was_made_by_is_in_the_database(story: Story) -> None:
    with reading(story.study.layout) as connection:
        kinds = connection.execute("select kind, count(*) from settings group by all order by all").fetchall()
        unknown = connection.execute(
            "select count(*) from metrics where statistics_digest not in (select digest from settings) "
            "or rules_digest not in (select digest from settings)"
        ).fetchone()
    assert kinds == [("detection", 2), ("statistics", 2)]
    assert unknown == (0,)
