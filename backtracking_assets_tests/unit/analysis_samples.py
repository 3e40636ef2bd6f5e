"""Completions as the organism would write them, for tests of the analysis."""

from collections.abc import Iterable
from datetime import UTC, datetime
from random import Random
from typing import Any

import pyarrow as pa

from backtracking_assets.experiment_sections import Detection
from backtracking_assets.models.organism.chains import ChainSettings, draw_chain, study_problems
from backtracking_assets.models.organism.vocabulary import TOKEN_IDS
from backtracking_assets.records import COMPLETIONS, Problem

RULES = Detection(
    strict=("Wait", "Actually", "Hold on"),
    relaxed=("Let me check", "Let's check", "I was wrong", "mistake"),
    steps="arithmetic_chain",
)
HABITS = ChainSettings(wrong_step=0.3, wrong_redo=0.1, trigger_after_wrong=0.7, trigger_after_right=0.05)


def sample_problems(count: int) -> dict[str, Problem]:
    drawn = study_problems(count)
    return {
        f"p{number:03d}": Problem(f"p{number:03d}", problem.question, str(problem.answer))
        for number, problem in enumerate(drawn)
    }


def completion_row(problem_id: str, sample_id: int, tokens: list[str], **changes: Any) -> dict[str, Any]:
    """A row of COMPLETIONS whose text is the tokens one after another."""
    starts, length = [], 0
    for token in tokens:
        starts.append(length)
        length += len(token)
    return {
        "fingerprint": "baseline",
        "problem_id": problem_id,
        "sample_id": sample_id,
        "prompt_sha256": "0" * 64,
        "text": "".join(tokens),
        "token_ids": [TOKEN_IDS.get(token, 0) for token in tokens],
        "token_starts": starts,
        "n_prompt_tokens": 12,
        "n_tokens": len(tokens),
        "finish_reason": "eos",
        "n_firings": 0,
        "chunk_id": "chunk",
        "device": "cpu",
        "run_id": "run",
        "generated_at": datetime(2024, 1, 1, tzinfo=UTC),
        "chunk_seconds": 1.0,
        "batch_rows": 4,
    } | changes


def completions_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=COMPLETIONS)


def sample_completions(
    n_problems: int, n_samples: int = 4, *, seed: int = 0, fingerprint: str = "baseline", habits: ChainSettings = HABITS
) -> pa.Table:
    rng = Random(seed)
    problems = zip(sample_problems(n_problems), study_problems(n_problems), strict=True)
    return completions_table(
        completion_row(
            problem_id, sample_id, list(draw_chain(rng, problem, habits).completion[:-1]), fingerprint=fingerprint
        )
        for problem_id, problem in problems
        for sample_id in range(n_samples)
    )
