"""Conditions, completions and results small enough to reason about, for the tests of storage."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from backtracking_assets.conditions import Condition, canonical_intervention
from backtracking_assets.records import CHECKS, COMPARISONS, COMPLETIONS, DETECTIONS, METRICS, Cell, Problem
from backtracking_assets.storage.archive import compact
from backtracking_assets.storage.chunks import Chunk
from backtracking_assets.storage.commits import commit_condition
from backtracking_assets.storage.journal import clear_journal, finish_chunk, plan_chunks
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.rows import Key, table_of

RULES = "r" * 64
BASELINE = Cell("mlp_27_only", 1.0)
ABLATED = Cell("mlp_27_only", 0.0)


def condition(scale: float = 1.0, seed: int = 42) -> Condition:
    return Condition(
        weights_digest="w",
        tokenizer_digest="t",
        dtype="float32",
        system=None,
        chat_template=False,
        template="{question}",
        temperature=0.7,
        top_p=0.95,
        max_new_tokens=64,
        seed=seed,
        intervention=canonical_intervention([(27, "mlp")], scale),
    )


def problems(n: int) -> list[Problem]:
    return [Problem(f"p{number:03d}", f"What is {number} + 1?", str(number + 1)) for number in range(n)]


def keys(n_problems: int, n_samples: int) -> list[Key]:
    return [(problem.problem_id, sample) for problem in problems(n_problems) for sample in range(n_samples)]


def completion_row(fingerprint: str, chunk_id: str, key: Key, **changes: Any) -> dict[str, Any]:
    text = f"{key[0]} sample {key[1]}. Wait, 7. Final: 7"
    row = {
        "fingerprint": fingerprint,
        "problem_id": key[0],
        "sample_id": key[1],
        "prompt_sha256": "a" * 64,
        "text": text,
        "token_ids": [key[1], 2**31 - 1, 0],
        "token_starts": [0, 4, 11],
        "n_prompt_tokens": 9,
        "n_tokens": 3,
        "finish_reason": "eos",
        "n_firings": 2,
        "chunk_id": chunk_id,
        "device": "cpu",
        "run_id": "run-1",
        "generated_at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        "chunk_seconds": 0.25,
        "batch_rows": 4,
    }
    return {**row, **changes}


def completions_of(fingerprint: str, chunk: Chunk, **changes: Any) -> pa.Table:
    return table_of([completion_row(fingerprint, chunk.chunk_id, key, **changes) for key in chunk.keys], COMPLETIONS)


def generate(layout: StoreLayout, of: Condition, wanted: list[Key], size: int = 4) -> None:
    """What a generating run does, with made-up completions."""
    layout.prepare()
    for chunk in plan_chunks(layout, of.fingerprint, wanted, (), size):
        finish_chunk(layout, of.fingerprint, chunk, completions_of(of.fingerprint, chunk))
    compact(layout, of)
    commit_condition(layout, of, run_id="run-1")
    clear_journal(layout, of.fingerprint)


def detections_of(fingerprint: str, wanted: Iterable[Key], rules_digest: str = RULES, **changes: Any) -> pa.Table:
    """Detections with made-up counts; columns that may be NULL are."""
    made_up: dict[pa.DataType, Any] = {pa.string(): "correct", pa.int32(): 1, pa.bool_(): True}
    made_up |= {pa.list_(pa.string()): ["made up"], pa.list_(pa.int32()): [1]}
    row = {field.name: None if field.nullable else made_up[field.type] for field in DETECTIONS}
    row |= {"fingerprint": fingerprint, "rules_digest": rules_digest, "run_id": "run-2", **changes}
    return table_of([{**row, "problem_id": key[0], "sample_id": key[1]} for key in wanted], DETECTIONS)


def metrics_of(cell: Cell, fingerprint: str, digest: str, rules_digest: str = RULES, **changes: Any) -> pa.Table:
    row = {
        "layer_subset": cell.layer_subset,
        "scale": cell.scale,
        "fingerprint": fingerprint,
        "problem_set_digest": digest,
        "rules_digest": rules_digest,
        "statistics_digest": "statistics",
        "estimate": 0.5,
        "low": 0.25,
        "high": 0.75,
        "n": 4,
        "n_problems": 2,
        "method": "made up",
        "run_id": "run-3",
    }
    rows = [{**row, "metric": metric, **changes} for metric in ("strict_rate", "accuracy")]
    return table_of(rows, METRICS)


def comparison_of(cell: Cell, fingerprint: str, baseline: str, digest: str, **changes: Any) -> pa.Table:
    row = {
        "layer_subset": cell.layer_subset,
        "scale": cell.scale,
        "metric": "strict_rate",
        "fingerprint": fingerprint,
        "baseline_fingerprint": baseline,
        "problem_set_digest": digest,
        "rules_digest": RULES,
        "statistics_digest": "statistics",
        "difference": -0.25,
        "low": -0.5,
        "high": 0.0,
        "p_value": 0.03,
        "p_holm": 0.06,
        "variance_ratio": 0.4,
        "variance_ratio_low": 0.3,
        "variance_ratio_high": None,
        "n_comparisons": 2,
        "n_pairs": 4,
        "n_problems": 2,
        "method": "made up",
        "run_id": "run-4",
    }
    return table_of([{**row, **changes}], COMPARISONS)


def checks_of(cell: Cell, asset: str, *names: str, passed: bool = True) -> pa.Table:
    row = {
        "layer_subset": cell.layer_subset,
        "scale": cell.scale,
        "asset": asset,
        "passed": passed,
        "severity": "error",
        "description": "made up",
        "run_id": "run-5",
    }
    return table_of([{**row, "name": name} for name in names], CHECKS)
