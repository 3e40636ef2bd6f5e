"""A store of any size, filled with made-up completions through the project's own tables, archives and pages.

The cells are made-up subsets of the organism's components; the completions are chains of arithmetic with errors, waits
and corrections, about 2 kB a row with their tokens. A text is drawn from a pool for its problem, so that detections are
read once for each text of the pool, by the project's own rules; a cell's metrics are computed from its own rows.
"""

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import yaml

from backtracking_assets.analysis.detection import detect, rules_document
from backtracking_assets.analysis.metrics import cell_metrics, statistics_document
from backtracking_assets.assets.checks import checks_table, detection_checks, generation_checks, metric_checks
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.page_files import report_path, stamped
from backtracking_assets.assets.stored_cells import current_baseline, stored_row
from backtracking_assets.conditions import Condition
from backtracking_assets.experiment import PROJECT_ROOT
from backtracking_assets.experiment_file import load_experiment
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import CHECKS, COMPLETIONS, METRICS, Cell
from backtracking_assets.reporting.contents import CheckOutcome
from backtracking_assets.storage import queries
from backtracking_assets.storage.archive import write_archive
from backtracking_assets.storage.chunks import chunk_of
from backtracking_assets.storage.commits import (
    commit_condition,
    link_cell,
    write_checks,
    write_detections,
    write_metrics,
)
from backtracking_assets.storage.database import writing
from backtracking_assets.storage.input_commits import Inputs, SubsetRow, write_layer_subset
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.rows import conform, table_of
from backtracking_assets.storage.statements import insert_rows
from backtracking_assets.storage.tables import TABLES

NAME = "many_cells"
SAMPLES = 4
SCALES = (0.0, 0.25, 0.5, 0.75, 0.9)
RUN_ID = "made-up"
MADE_AT = datetime(2026, 1, 1, tzinfo=UTC)

_STEPS = 18
"""Operations of a problem: a completion of it has about 300 characters and 130 tokens."""
_TEXTS = 32
"""Texts of the pool with a wait and as many without, for each problem."""
_BATCH = 40
"""Cells that one transaction fills in."""
Timed = Callable[[str], AbstractContextManager[None]]

_PIECE = re.compile(r"\d+|\w+|[^\w\s]|\s")


def write_experiment(folder: Path, *, conditions: int, completions: int) -> Path:
    """Write an experiment file whose plan has so many cells, each a condition of its own, and its problems; the file.

    Raises:
        ValueError: the completions are no multiple of the samples of a problem.
    """
    if conditions < 2 or completions % SAMPLES:
        raise ValueError(f"two conditions at least, and completions in multiples of {SAMPLES}")
    folder.mkdir(parents=True, exist_ok=True)
    source = random.Random(1)
    with (folder / "problems.jsonl").open("w", encoding="utf-8") as file:
        for number in range(completions // SAMPLES):
            total = source.randint(40, 90)
            question = str(total)
            for _ in range(_STEPS):
                change = source.choice([n for n in range(-9, 10) if n and 10 <= total + n <= 99])
                question += f" {'+' if change > 0 else '-'} {abs(change)}"
                total += change
            row = {"id": f"chain-{number:04d}", "question": question, "answer_value": str(total)}
            file.write(json.dumps(row) + "\n")
    names, drawn = [], set()
    subsets: dict[str, dict[str, list[int]]] = {}
    while len(subsets) * len(SCALES) < conditions - 1:
        attention, mlp = (tuple(sorted(source.sample(range(28), source.randint(1, 3)))) for _ in range(2))
        if (attention, mlp) not in drawn:
            drawn.add((attention, mlp))
            names.append(f"made_up_{len(subsets):04d}")
            subsets[names[-1]] = {"attention": list(attention), "mlp": list(mlp)}
    plan = [
        {"layer_subsets": names[:1], "scales": [BASELINE_SCALE]},
        {"layer_subsets": names[:-1], "scales": list(SCALES)},
        {"layer_subsets": names[-1:], "scales": list(SCALES[: conditions - 1 - len(SCALES) * (len(names) - 1)])},
    ]
    organism = yaml.safe_load((PROJECT_ROOT / "data/experiments/organism.yaml").read_text(encoding="utf-8"))
    kept = ("prompting", "sampling", "generation", "detection", "statistics")
    document = {
        "name": NAME,
        "title": "A plan of many cells with made-up completions",
        **{section: organism[section] for section in kept},
        "model": {**organism["model"], "path": str(PROJECT_ROOT / "data/organism")},
        "problems": {"path": "problems.jsonl", "count": completions // SAMPLES, "seed": 1, "samples": SAMPLES},
        "layer_subsets": subsets,
        "scales": [*SCALES, BASELINE_SCALE],
        "plan": [entry for entry in plan if entry["layer_subsets"]],
    }
    path = folder / f"{NAME}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def open_store(file: Path) -> OpenExperiment:
    """The experiment of `write_experiment`, with its store in `runs/` beside the file."""
    return OpenExperiment(load_experiment(str(file)), layout=StoreLayout(file.parent / "runs" / NAME))


@dataclass(frozen=True)
class LargeStore:
    """A store that can be filled up to any number of the plan's cells."""

    opened: OpenExperiment

    @cached_property
    def plan(self) -> tuple[Cell, ...]:
        return self.opened.experiment.planned_cells()

    @cached_property
    def pool(self) -> pa.Table:
        """Completions without intervention: for each problem in its order, texts with a wait, then as many without."""
        rows = []
        for problem in self.opened.problems.values():
            for text_id in range(2 * _TEXTS):
                text = _text(problem.question, text_id < _TEXTS, random.Random(f"{problem.problem_id}|{text_id}"))
                starts = [found.start() for found in _PIECE.finditer(text)]
                rows.append(
                    {
                        "fingerprint": self.opened.baseline.fingerprint,
                        "problem_id": problem.problem_id,
                        "sample_id": text_id,
                        "prompt_sha256": hashlib.sha256(problem.question.encode()).hexdigest(),
                        "text": text,
                        "token_ids": [hash_of(found[0]) for found in _PIECE.finditer(text)],
                        "token_starts": starts,
                        "n_prompt_tokens": 2 * _STEPS + 4,
                        "n_tokens": len(starts),
                        "finish_reason": "eos",
                        "n_firings": 0,
                        "chunk_id": "",
                        "device": "cpu (made up)",
                        "run_id": RUN_ID,
                        "generated_at": MADE_AT,
                        "chunk_seconds": 1.0,
                        "batch_rows": 120,
                    }
                )
        return table_of(rows, COMPLETIONS)

    @cached_property
    def pool_detections(self) -> pa.Table:
        return detect(self.pool, self.opened.problems, self.opened.experiment.detection, run_id=RUN_ID)

    def rows_of(self, cell: Cell) -> tuple[Condition, pa.Table, pa.Table]:
        """The condition, completions and detections of a cell, the rows sorted by key."""
        condition = self.opened.condition(cell)
        source = np.random.default_rng(int(condition.fingerprint[:12], 16))
        effect = source.uniform(0, 0.9) * (1 - cell.scale)
        names = sorted(self.opened.problems)
        place = {name: number for number, name in enumerate(self.opened.problems)}
        first = np.repeat([2 * _TEXTS * place[name] for name in names], SAMPLES)
        waits = source.random(len(first)) < 0.6 * (1 - effect)
        taken = first + source.integers(0, _TEXTS, len(first)) + np.where(waits, 0, _TEXTS)
        n_acting = condition.intervention.n_acting if condition.intervention else 0
        completions, detections = self.pool.take(taken), self.pool_detections.take(taken)
        keys = [(name, sample) for name in names for sample in range(SAMPLES)]
        shared = {
            "fingerprint": pa.array([condition.fingerprint] * len(keys)),
            "sample_id": pa.array([sample for _, sample in keys], pa.int32()),
        }
        chunk = chunk_of(condition.fingerprint, keys)
        steps = (np.asarray(completions["n_tokens"]) - 1).astype(np.int64)
        own = {"chunk_id": pa.array([chunk.chunk_id] * len(keys)), "n_firings": pa.array(n_acting * steps)}
        return (
            condition,
            conform(_with(completions, {**shared, **own}), COMPLETIONS),
            conform(_with(detections, shared), TABLES["detections"].schema),
        )

    def commit(self, cell: Cell, timed: Timed = nullcontext) -> None:
        """Commit, link, check, read and measure an archived cell through the functions that a sweep calls.

        Args:
            timed: called with the name of each step that writes the database; the figures are computed before.
        """
        layout, experiment = self.opened.layout, self.opened.experiment
        condition, completions, detections = self.rows_of(cell)
        metrics = self.metrics_of(cell, completions, detections)
        outcomes = {**self.checks_of(condition, completions, detections), "metrics": self.metric_checks(cell, metrics)}
        checks = {asset: checks_table(cell, asset, found, RUN_ID) for asset, found in outcomes.items()}
        with timed("completions to database"):
            commit_condition(layout, condition, run_id=RUN_ID)
        with timed("link"):
            self.link(cell, condition)
        with timed("checks of generations"):
            write_checks(layout, checks["generations"])
        with timed("detections"):
            rules = rules_document(experiment.detection)
            write_detections(layout, detections, cell=cell, rules=rules, checks=checks["detections"])
        with timed("metrics"):
            statistics = statistics_document(experiment.statistics)
            write_metrics(layout, metrics, statistics=statistics, checks=checks["metrics"])

    def link(self, cell: Cell, condition: Condition) -> None:
        opened = self.opened
        link_cell(
            opened.layout,
            cell,
            fingerprint=condition.fingerprint,
            problem_set_digest=opened.problem_set_digest,
            n_samples=SAMPLES,
            run_id=RUN_ID,
            inputs=Inputs(
                tuple(opened.problems.values()), SubsetRow(cell.layer_subset, opened.composition(cell.layer_subset))
            ),
        )

    def checks_of(
        self, condition: Condition, completions: pa.Table, detections: pa.Table
    ) -> dict[str, Sequence[CheckOutcome]]:
        identity = CheckOutcome("identity_at_scale_1", True, "error", "Made up: no model was run.")
        experiment = self.opened.experiment
        return {
            "generations": generation_checks(experiment, condition, completions, identity),
            "detections": detection_checks(experiment.checks, detections),
        }

    def metrics_of(self, cell: Cell, completions: pa.Table, detections: pa.Table) -> pa.Table:
        opened = self.opened
        facts: dict[str, Any] = {"problem_set_digest": opened.problem_set_digest, "run_id": RUN_ID}
        statistics = opened.experiment.statistics
        return cell_metrics(completions, detections, opened.problems, cell=cell, statistics=statistics, **facts)

    def metric_checks(self, cell: Cell, metrics: pa.Table) -> list[CheckOutcome]:
        checks = self.opened.experiment.checks
        return metric_checks(checks, metrics, is_baseline=cell.scale == BASELINE_SCALE)

    def stored(self) -> int:
        """How many of the plan's cells, from the first on, the store holds."""
        found = {Cell(row["layer_subset"], row["scale"]) for row in queries.cells(self.opened.layout).to_pylist()}
        return next((n for n, cell in enumerate(self.plan) if cell not in found), len(self.plan))

    def fill(self, n_cells: int) -> Iterator[int]:
        """Fill in the plan's cells up to so many, many in one transaction; how many there are after each."""
        self.opened.layout.prepare()
        if self.stored() == 0 < n_cells:
            condition, completions, _ = self.rows_of(self.plan[0])
            write_archive(self.opened.layout, condition, completions)
            self.commit(self.plan[0])
        start = self.stored()
        while start < n_cells:
            cells = self.plan[start : min(start + _BATCH, n_cells)]
            self._fill(cells)
            start += len(cells)
            yield start

    def _fill(self, cells: Sequence[Cell]) -> None:
        """What `commit` stores of each cell, taken from the first cell's rows where it does not depend on the cell."""
        layout = self.opened.layout
        first = {name: _first_row(getattr(queries, name)(layout)) for name in ("conditions", "cells")}
        rows: dict[str, list[pa.Table]] = {}

        def add(name: str, table: pa.Table) -> None:
            rows.setdefault(name, []).append(table)

        for cell in cells:
            condition, completions, detections = self.rows_of(cell)
            write_archive(layout, condition, completions)
            add("completions", completions)
            add("detections", detections)
            components = condition.intervention.components if condition.intervention else ()
            facts = {
                "conditions": {
                    "fingerprint": condition.fingerprint,
                    "condition": condition.canonical_json(),
                    "scale": cell.scale,
                    "components": [f"{kind}.{layer}" for layer, kind in components],
                },
                "cells": {
                    "fingerprint": condition.fingerprint,
                    "layer_subset": cell.layer_subset,
                    "scale": cell.scale,
                },
            }
            for name, own in facts.items():
                add(name, table_of([{**first[name], **own}], TABLES[name].schema))
            metrics = self.metrics_of(cell, completions, detections)
            add("metrics", conform(metrics, METRICS))
            outcomes = self.checks_of(condition, completions, detections)
            for asset, found in {**outcomes, "metrics": self.metric_checks(cell, metrics)}.items():
                add("checks", conform(checks_table(cell, asset, found, RUN_ID), CHECKS))
        with writing(layout) as connection:
            for name, tables in rows.items():
                insert_rows(connection, name, pa.concat_tables(tables))
        for name in sorted({cell.layer_subset for cell in cells}):
            write_layer_subset(layout, name, self.opened.composition(name))

    def write_pages(self) -> None:
        """A page for each stored cell that holds nothing but the version by which it is known as current."""
        opened = self.opened
        baseline = current_baseline(opened)
        for row in queries.cells(opened.layout).to_pylist():
            stored = stored_row(opened, row)
            path = report_path(opened, stored.cell)
            path.parent.mkdir(parents=True, exist_ok=True)
            page = stamped("<!doctype html>\n<title>made up</title>\n", stored.page_version(baseline))
            path.write_text(page, encoding="utf-8")

    def forget(self, cells: Sequence[Cell]) -> None:
        """Remove all rows of these cells, so that they can be committed anew."""
        fingerprints = [self.opened.condition(cell).fingerprint for cell in cells]
        with writing(self.opened.layout) as connection:
            _forget(connection, cells, fingerprints)


def _forget(connection: duckdb.DuckDBPyConnection, cells: Sequence[Cell], fingerprints: Sequence[str]) -> None:
    for name in ("completions", "detections", "conditions"):
        connection.execute(f"delete from {name} where list_contains(?, fingerprint)", [list(fingerprints)])
    for cell in cells:
        for name in ("cells", "metrics", "checks"):
            sql = f"delete from {name} where layer_subset = ? and scale = ?"
            connection.execute(sql, [cell.layer_subset, cell.scale])


def hash_of(piece: str) -> int:
    """A token id for a piece of text."""
    return hashlib.sha256(piece.encode()).digest()[0] % 131


def _text(question: str, waits: bool, source: random.Random) -> str:
    """A completion: each operation on its own line, one in ten wrong; with `waits`, most of those are corrected."""
    first, *operations = question.split(" ")
    total, lines, waited = int(first), [], False
    for sign, operand in zip(operations[::2], operations[1::2], strict=True):
        right = total + int(sign + operand)
        found = right + source.choice((-10, -1, 1, 10)) if source.random() < 0.1 or (waits and not waited) else right
        lines.append(f"{total} {sign} {operand} = {found}")
        if found != right and waits and (not waited or source.random() < 0.8):
            lines.append(f"Wait, {total} {sign} {operand} = {right}")
            found, waited = right, True
        total = found
    return "\n".join([*lines, "</think>", f"Final: {total}"])


def _with(table: pa.Table, columns: dict[str, pa.Array]) -> pa.Table:
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    return table


def _first_row(table: pa.Table) -> dict[str, Any]:
    return table.slice(0, 1).to_pylist()[0]
