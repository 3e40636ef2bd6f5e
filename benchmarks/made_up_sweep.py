"""A store with the results of a sweep that never ran: thousands of cells, to measure what is computed over all of them.

The chains are those that organisms are trained on, drawn with other rates of errors and triggers for each behavior, with
the same randomness for the same problem and sample. They are read and measured by the functions that the sweep uses, and
a behavior serves many cells: what is stored is true of it, only the model is missing.
"""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from backtracking_assets.analysis.detection import detect, rules_document
from backtracking_assets.analysis.metrics import cell_metrics, statistics_document
from backtracking_assets.assets.checks import checks_table, detection_checks, generation_checks, metric_checks
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.page_files import report_path, stamped
from backtracking_assets.assets.stored_cells import StoredCell
from backtracking_assets.conditions import Condition, canonical_json, digest
from backtracking_assets.experiment import Experiment
from backtracking_assets.experiment_file import load_experiment
from backtracking_assets.models.organism.chains import ChainSettings, draw_chain
from backtracking_assets.models.organism.chains import Problem as ChainProblem
from backtracking_assets.models.organism.vocabulary import EOS
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import COMPLETIONS, Cell, decode_steps
from backtracking_assets.storage.commits import _condition_row
from backtracking_assets.storage.database import writing
from backtracking_assets.storage.input_commits import write_layer_subset, write_problem_set
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.statements import insert_rows
from backtracking_assets.storage.tables import TABLES

ROOT = Path(__file__).resolve().parent.parent
RUN_ID = "made-up"
_SCALES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
_DRAWS = 19
_CELLS_AT_ONCE = 100
_START = datetime(2026, 1, 1, tzinfo=UTC)


def write_experiment(folder: Path, *, cells: int, problems: int, samples: int) -> Path:
    """An experiment file with at least so many conditions: targeted subsets at six scales, some with random controls."""
    document = yaml.safe_load((ROOT / "data/experiments/organism.yaml").read_text())
    targeted = max(round(cells / (len(_SCALES) - 1 + _DRAWS / 5)), 1)
    source = Random(0)
    subsets = {f"subset_{number:03d}": _layers(source) for number in range(targeted)}
    for name in ("scan", "continuation", "positive_control", "phase1", "means"):
        document.pop(name, None)
    document |= {
        "name": "made_up",
        "layer_subsets": subsets,
        "scales": list(_SCALES),
        "controls": {
            "trigger_logits": True,
            "random": [{"of": name, "draws": _DRAWS, "seed": 9} for name in list(subsets)[::5]],
        },
        "plan": [
            {"layer_subsets": ["targeted"]},
            {"layer_subsets": ["random"], "scales": [0.0]},
            {"layer_subsets": ["trigger_logits"]},
        ],
    }
    document["model"]["path"] = str(ROOT / "data/organism")
    document["problems"] |= {"path": str(ROOT / "data/problems/organism.jsonl"), "count": problems, "samples": samples}
    path = folder / "made_up.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def _layers(source: Random) -> dict[str, list[int]]:
    return {kind: sorted(source.sample(range(28), 3)) for kind in ("attention", "mlp")}


def make_sweep(folder: Path, *, cells: int, problems: int = 125, samples: int = 4, behaviors: int = 40) -> Experiment:
    """Make experiment file and store in a folder, every cell done but for the comparisons; one that is there is used."""
    path = write_experiment(folder, cells=cells, problems=problems, samples=samples)
    experiment = load_experiment(path)
    opened = opened_in(experiment, folder)
    if (folder / "made").exists():
        return experiment
    shutil.rmtree(opened.layout.root, ignore_errors=True)
    write_problem_set(opened.layout, list(opened.problems.values()))
    pool = [_behavior(opened, number / max(behaviors - 1, 1)) for number in range(behaviors)]
    planned = experiment.planned_cells()
    for name in dict.fromkeys(cell.layer_subset for cell in planned):
        if name.startswith("subset_000"):  # what subsets are made of is not read by what is measured here
            write_layer_subset(opened.layout, name, opened.composition(name))
    _store(opened, planned, pool)
    (folder / "made").touch()
    return experiment


def opened_in(experiment: Experiment, folder: Path) -> OpenExperiment:
    return OpenExperiment(experiment, layout=StoreLayout(folder / "store"))


def _behavior(opened: OpenExperiment, damage: float) -> tuple[pa.Table, pa.Table]:
    """Completions and detections of chains that are the more damaged, the less they notice."""
    settings = ChainSettings(
        wrong_step=0.12 + 0.1 * damage**2,
        wrong_redo=0.1,
        trigger_after_wrong=0.7 * (1 - damage),
        trigger_after_right=0.02,
    )
    rows: list[dict[str, Any]] = []
    for number, (problem_id, sample_id) in enumerate(opened.keys()):
        start, *signed = opened.problems[problem_id].question.replace("- ", "-").replace("+ ", "+").split()
        problem = ChainProblem(int(start), tuple(map(int, signed)))
        tokens = draw_chain(Random(f"{problem_id} {sample_id}"), problem, settings).completion
        text = "".join(token for token in tokens if token != EOS)
        starts = np.cumsum([0, *(len(token) for token in tokens[:-1])]).tolist()
        rows.append(
            {
                "fingerprint": "0" * 64,
                "problem_id": problem_id,
                "sample_id": sample_id,
                "prompt_sha256": digest(problem_id),
                "text": text,
                "token_ids": [hash_of(token) for token in tokens],
                "token_starts": starts,
                "n_prompt_tokens": 20,
                "n_tokens": len(tokens),
                "finish_reason": "eos",
                "n_firings": 0,
                "chunk_id": f"{number // 120:016d}",
                "device": "cpu",
                "run_id": RUN_ID,
                "generated_at": _START,
                "chunk_seconds": 10.0,
                "batch_rows": 120,
            }
        )
    completions = pa.Table.from_pylist(rows, schema=COMPLETIONS)
    return completions, detect(completions, opened.problems, opened.experiment.detection, run_id=RUN_ID)


def hash_of(token: str) -> int:
    """A number for a token, the same in every process."""
    return int(digest(token)[:4], 16) % 131


def _store(opened: OpenExperiment, planned: list[Cell], pool: list[tuple[pa.Table, pa.Table]]) -> None:
    experiment, layout = opened.experiment, opened.layout
    source, statistics = Random(1), experiment.statistics
    rates: dict[int, pa.Table] = {}
    baseline = StoredCell(
        opened,
        opened.baseline.fingerprint,
        opened.problem_set_digest,
        experiment.problems.samples,
        opened.rules_digest,
        Cell("subset_000", BASELINE_SCALE),
    )
    seen: set[str] = set()
    for begin in range(0, len(planned), _CELLS_AT_ONCE):
        found: dict[str, list[pa.Table]] = {}
        for cell in planned[begin : begin + _CELLS_AT_ONCE]:
            condition = opened.condition(cell)
            at_one = cell.scale == BASELINE_SCALE
            strength = 0.0 if at_one else (1 - cell.scale) * (0.3 if cell.layer_subset.startswith("random") else 1)
            behavior = 0 if at_one else round(source.random() * strength * (len(pool) - 1))
            if behavior not in rates:
                rates[behavior] = cell_metrics(
                    *pool[behavior],
                    opened.problems,
                    cell=cell,
                    problem_set_digest=opened.problem_set_digest,
                    statistics=statistics,
                    run_id=RUN_ID,
                )
            for name, table in _rows_of(opened, cell, condition, pool[behavior], rates[behavior], seen):
                found.setdefault(name, []).append(table)
            stored = StoredCell(
                opened,
                condition.fingerprint,
                opened.problem_set_digest,
                experiment.problems.samples,
                opened.rules_digest,
                cell,
            )
            page = report_path(opened, cell)
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(stamped("<!doctype html>\n", stored.page_version(baseline)))
        with writing(layout) as connection:
            for name, tables in found.items():
                insert_rows(connection, name, pa.concat_tables(tables))
    settings = [("detection", rules_document(experiment.detection)), ("statistics", statistics_document(statistics))]
    rows = [{"digest": digest(facts), "kind": kind, "content": canonical_json(facts)} for kind, facts in settings]
    with writing(layout) as connection:
        insert_rows(connection, "settings", pa.Table.from_pylist(rows, schema=TABLES["settings"].schema))


def _rows_of(
    opened: OpenExperiment,
    cell: Cell,
    condition: Condition,
    behavior: tuple[pa.Table, pa.Table],
    rates: pa.Table,
    seen: set[str],
) -> Iterator[tuple[str, pa.Table]]:
    """The rows of a cell by table; those of its condition where it is the first to point to it."""
    fingerprint = condition.fingerprint
    completions, detections = (_with(table, {"fingerprint": fingerprint}) for table in behavior)
    made = _START + timedelta(seconds=len(seen))
    n_acting = condition.intervention.n_acting if condition.intervention else 0
    firings = [n_acting * decode_steps(n, "eos") for n in completions["n_tokens"].to_pylist()]
    completions = _with(completions, {"generated_at": made, "n_firings": firings})
    shared = fingerprint in seen
    if not shared:
        seen.add(fingerprint)
        yield "completions", completions
        yield "detections", detections
        yield "conditions", _condition_row(condition, completions, RUN_ID)
    metrics = _with(rates, {"layer_subset": cell.layer_subset, "scale": cell.scale, "fingerprint": fingerprint})
    yield "metrics", metrics
    checks = opened.experiment.checks
    is_baseline = cell.scale == BASELINE_SCALE
    yield (
        "checks",
        checks_table(cell, "generations", generation_checks(opened.experiment, condition, completions, None), RUN_ID),
    )
    yield "checks", checks_table(cell, "detections", detection_checks(checks, detections), RUN_ID)
    yield "checks", checks_table(cell, "metrics", metric_checks(checks, metrics, is_baseline=is_baseline), RUN_ID)
    row = {
        "layer_subset": cell.layer_subset,
        "scale": cell.scale,
        "fingerprint": fingerprint,
        "problem_set_digest": opened.problem_set_digest,
        "n_samples": opened.experiment.problems.samples,
        "n_completions": completions.num_rows,
        "rules_digest": opened.rules_digest,
        "linked": shared,
        "run_id": RUN_ID,
        "committed_at": made,
    }
    yield "cells", pa.Table.from_pylist([row], schema=TABLES["cells"].schema)


def _with(table: pa.Table, values: dict[str, Any]) -> pa.Table:
    """The table with other values in these columns: one for all rows, or one for each."""
    for name, value in values.items():
        field = table.schema.field(name)
        column = value if isinstance(value, list) else [value] * table.num_rows
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(column, field.type))
    return table
