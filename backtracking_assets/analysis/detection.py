"""Reading every completion of a table: triggers, degeneration, answer and steps, one row of DETECTIONS each."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backtracking_assets import conditions
from backtracking_assets.analysis.answers import judge, warm_up
from backtracking_assets.analysis.arithmetic_steps import read_steps
from backtracking_assets.analysis.backtracking_classes import classify_chain, classify_text
from backtracking_assets.analysis.degeneration import degeneration_rule
from backtracking_assets.analysis.triggers import Event, find_events, onset
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Detection
from backtracking_assets.records import DETECTIONS, Problem

DETECTION_VERSION = "2"
"""Raised whenever a change of this package changes what is read from a completion."""

STEP_COLUMNS = (
    "n_steps",
    "n_wrong_steps",
    "n_wrong_steps_followed",
    "n_right_steps_followed",
    "n_waits_after_wrong_step",
    "n_waits_after_right_step",
    "n_corrected_steps",
    "n_unreadable_lines",
    "n_off_chain_steps",
)


def rules_document(rules: Detection) -> dict[str, Any]:
    """The rules and the version of the code that applies them, as JSON values."""
    return {"version": DETECTION_VERSION, "rules": rules.model_dump(mode="json")}


def rules_digest(rules: Detection) -> str:
    """Hexadecimal sha256 of `rules_document`."""
    return conditions.digest(rules_document(rules))


def detect(completions: pa.Table, problems: Mapping[str, Problem], rules: Detection, *, run_id: str) -> pa.Table:
    """Read completions.

    Every text gets a row: what is read from it is bounded and never raises.

    Returns:
        A table with the schema DETECTIONS, in the order of problem_id, sample_id and fingerprint.

    Raises:
        BacktrackingError: a completion's problem is not among ``problems``, or its tokens do not cover its text.
    """
    _refuse_unknown_problems(completions, problems)
    warm_up()  # otherwise the first answer that is an expression pays for imports
    ordered = completions.sort_by([(name, "ascending") for name in ("problem_id", "sample_id", "fingerprint")])
    names = ("fingerprint", "problem_id", "sample_id", "text", "finish_reason")
    columns = [ordered.column(name).to_pylist() for name in names]
    digest = rules_digest(rules)
    rows = [
        {
            "fingerprint": fingerprint,
            "problem_id": problem_id,
            "sample_id": sample_id,
            "rules_digest": digest,
            "truncated": finish_reason == "length",
            "run_id": run_id,
            **_read(text, token_ids, token_starts, finish_reason == "length", problems[problem_id], rules),
        }
        for fingerprint, problem_id, sample_id, text, finish_reason, token_ids, token_starts in zip(
            *columns, _lists(ordered, "token_ids"), _lists(ordered, "token_starts"), strict=True
        )
    ]
    return pa.Table.from_pylist(rows, schema=DETECTIONS)


def _read(
    text: str,
    token_ids: npt.NDArray[np.int32],
    token_starts: npt.NDArray[np.int32],
    truncated: bool,
    problem: Problem,
    rules: Detection,
) -> dict[str, Any]:
    events = find_events(text, rules)
    strict = [event for event in events if event.kind == "strict"]
    first = onset(events, rules)
    tokens = _tokens(token_starts, events, problem)
    rule = degeneration_rule(text, token_ids, rules)
    answer = judge(text, problem.answer, rules.answer_marker)
    steps = read_steps(text, rules, problem.question) if rules.steps == "arithmetic_chain" else None
    state = {"degenerate": rule is not None, "cut_off": truncated}
    if steps is None:
        classes = classify_text(text, events, **state)
    else:
        classes = classify_chain(text, events, steps, problem.question, **state)
    return {
        "has_strict": bool(strict),
        "has_relaxed": bool(events),
        "n_strict": len(strict),
        "n_relaxed": len(events),
        "onset_phrase": first.phrase if first else None,
        "onset_character": first.start if first else None,
        "onset_token": tokens[events.index(first)] if first else None,
        "first_strict_token": tokens[events.index(strict[0])] if strict else None,
        "completion_class": classes.completion,
        "n_genuine": classes.events.count("genuine"),
        "n_filler": classes.events.count("filler"),
        "n_silent": classes.n_silent,
        **_event_columns(events),
        "event_tokens": tokens,
        "event_classes": list(classes.events),
        "degenerate": rule is not None,
        "degeneration_rule": rule,
        "answer": answer.found,
        "verdict": answer.verdict,
        "correct": answer.verdict == "correct",
        **{name: None if steps is None else getattr(steps, name) for name in STEP_COLUMNS},
    }


def _event_columns(events: Sequence[Event]) -> dict[str, Any]:
    """The columns with one element for each event."""
    return {
        "event_phrases": [event.phrase for event in events],
        "event_kinds": [event.kind for event in events],
        "event_starts": [event.start for event in events],
        "event_ends": [event.end for event in events],
    }


def _tokens(token_starts: npt.NDArray[np.int32], events: Sequence[Event], problem: Problem) -> list[int]:
    """The token of each event, by the rule of `token_at`, without a Python list of a long text's tokens."""
    if not events:
        return []
    places = np.searchsorted(token_starts, [event.start for event in events], side="right") - 1
    if places[0] < 0:
        raise BacktrackingError(
            f"A completion of problem {problem.problem_id!r} has text that no token starts before: no token starts at "
            f"or before character {events[0].start}; its row is damaged, generate the cell anew."
        )
    return places.tolist()


def _refuse_unknown_problems(completions: pa.Table, problems: Mapping[str, Problem]) -> None:
    unknown = sorted(set(completions.column("problem_id").unique().to_pylist()) - problems.keys())
    if unknown:
        raise BacktrackingError(
            f"Completions belong to {len(unknown)} problems that are not in the problem set, "
            f"the first is {unknown[0]!r}; detect them with the problem file that they were generated from."
        )


def _lists(table: pa.Table, name: str) -> list[npt.NDArray[np.int32]]:
    """A list column as one array a row, without making a Python object of every number."""
    arrays: list[npt.NDArray[np.int32]] = []
    for chunk in table.column(name).chunks:
        values, offsets = chunk.values.to_numpy(), chunk.offsets.to_numpy()
        arrays += [values[start:end] for start, end in pairwise(offsets)]
    return arrays
