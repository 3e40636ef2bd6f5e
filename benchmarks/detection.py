"""How many completions of 2,000 characters `detect` reads a second on one core.

The peer is a floor for any reader in Python: one pass of the triggers' pattern over the same texts. The figure is
processor time. Each run reads completions that no earlier run has read, as each cell of a sweep does.
Run: python benchmarks/detection.py [--kind prose] [--completions 480] [--json]
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
from made_up_texts import CHAIN_RULES, PROSE_RULES, chains, prose
from spread import MIN_RUNS, options, spread, tell, where

from backtracking_assets.analysis.answers import judge
from backtracking_assets.analysis.backtracking_classes import classify_texts
from backtracking_assets.analysis.degeneration import degeneration_rules
from backtracking_assets.analysis.detection import detect
from backtracking_assets.analysis.step_columns import read_step_columns
from backtracking_assets.analysis.text_columns import TextColumn, events_of
from backtracking_assets.analysis.triggers import trigger_pattern
from backtracking_assets.experiment_sections import Detection
from backtracking_assets.records import Problem

KINDS: dict[str, tuple[Callable[..., tuple[pa.Table, dict[str, Problem]]], Detection]] = {
    "chains": (chains, CHAIN_RULES),
    "prose": (prose, PROSE_RULES),
}


def one_pass(texts: list[str], rules: Detection) -> int:
    """Matches of one pass of the triggers' pattern: what the peer does."""
    pattern = trigger_pattern((*rules.strict, *rules.relaxed))
    return sum(1 for text in texts for _ in pattern.finditer(text))


def parts_of(completions: pa.Table, problems: dict[str, Problem], rules: Detection) -> dict[str, float]:
    """Processor seconds of each part of `detect`; together they are less than the whole, which makes the table too."""
    texts = completions.column("text").to_pylist()
    asked = [problems[problem_id] for problem_id in completions.column("problem_id").to_pylist()]
    token_ids = [row.values.to_numpy() for row in completions.column("token_ids")]
    column = TextColumn(texts)
    seconds = {"triggers": timed(lambda: events_of(column, rules))}
    seconds["degeneration"] = timed(lambda: degeneration_rules(column, token_ids, rules))
    seconds["answers"] = timed(
        lambda: [judge(text, problem.answer) for text, problem in zip(texts, asked, strict=True)]
    )
    if rules.steps:
        questions = [problem.question for problem in asked]
        seconds["steps"] = timed(lambda: read_step_columns(texts, questions, rules))
    else:
        events, no = events_of(column, rules), [False] * len(texts)
        seconds["classes"] = timed(lambda: classify_texts(texts, events, no, no))
    return seconds


def timed(run: Callable[[], object]) -> float:
    """Processor seconds of this process."""
    started = time.process_time()
    run()
    return time.process_time() - started


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--kind", choices=KINDS, default="chains")
    parser.add_argument("--completions", type=int, default=480, help="rows of one table (default 480, a cell's)")
    asked = parser.parse_args()
    make, rules = KINDS[asked.kind]
    runs = max(asked.runs, MIN_RUNS)
    ours: list[float] = []
    peers: list[float] = []
    parts: dict[str, list[float]] = {}
    for seed in range(runs + 1):
        completions, problems = make(asked.completions, seed)
        texts = completions.column("text").to_pylist()
        of_ours = timed(partial(detect, completions, problems, rules, run_id="benchmark"))
        of_peer = timed(partial(one_pass, texts, rules))
        of_parts = parts_of(completions, problems, rules)
        if seed:  # the first run imports and parses what all others find there
            ours.append(of_ours)
            peers.append(of_peer)
            for name, seconds in of_parts.items():
                parts.setdefault(name, []).append(1e6 * seconds / asked.completions)
    found: dict[str, Any] = {
        **where(),
        "kind": asked.kind,
        "completions": asked.completions,
        "completions_a_second": spread([asked.completions / seconds for seconds in ours]),
        "detect_over_one_pass": spread([a / b for a, b in zip(ours, peers, strict=True)]),
        "cell_milliseconds": spread([1000 * seconds for seconds in ours]),
        "part_microseconds": {name: spread(values) for name, values in parts.items()},
    }
    sentences = [
        f"{asked.kind}, {asked.completions} completions: {found['completions_a_second']} a second a core.",
        f"detect / one pass of the triggers' pattern = {found['detect_over_one_pass']}.",
        *(f"  {name}: {values} microseconds a completion" for name, values in found["part_microseconds"].items()),
    ]
    tell(found, sentences, as_json=asked.json)


if __name__ == "__main__":
    main()
