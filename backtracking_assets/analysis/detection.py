"""Reading every completion of a table: triggers, degeneration, answer and steps, one row of DETECTIONS each."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backtracking_assets import conditions
from backtracking_assets.analysis.answers import judge_folded, warm_up
from backtracking_assets.analysis.backtracking_classes import Classes, Span, classify_steps, classify_texts
from backtracking_assets.analysis.degeneration import degeneration_rules
from backtracking_assets.analysis.step_columns import StepColumns, read_step_columns
from backtracking_assets.analysis.text_columns import TextColumn, events_of
from backtracking_assets.analysis.triggers import Event, onset
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

_READ = ("fingerprint", "problem_id", "sample_id", "text", "finish_reason", "token_ids", "token_starts")
"""Columns of completions that are read."""
_ROWS_TOGETHER = 512
"""Rows that are read at once: their texts stay in a processor's cache."""


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
    keys = ("problem_id", "sample_id", "fingerprint")
    ordered = completions.select(_READ).sort_by([(name, "ascending") for name in keys])
    parts = [
        _detections(ordered.slice(begin, _ROWS_TOGETHER), problems, rules, run_id)
        for begin in range(0, ordered.num_rows, _ROWS_TOGETHER)
    ]
    return pa.concat_tables(parts) if parts else DETECTIONS.empty_table()


def _detections(completions: pa.Table, problems: Mapping[str, Problem], rules: Detection, run_id: str) -> pa.Table:
    """The rows of some completions, in their order. What many texts share is looked for in all at once."""
    n = completions.num_rows
    texts = completions.column("text").to_pylist()
    asked = [problems[problem_id] for problem_id in completions.column("problem_id").to_pylist()]
    truncated = [reason == "length" for reason in completions.column("finish_reason").to_pylist()]
    column = TextColumn(texts)
    events = events_of(column, rules)
    broken = degeneration_rules(column, _lists(completions, "token_ids"), rules)
    starts = _lists(completions, "token_starts")
    tokens = [_tokens(starts[row], of_text, asked[row]) if of_text else [] for row, of_text in enumerate(events)]
    steps = None
    if rules.steps == "arithmetic_chain":
        steps = read_step_columns(texts, [problem.question for problem in asked], rules)
    classes = _classes(texts, events, steps, broken, truncated)
    answers = [
        judge_folded(text, folded, problem.answer, rules.answer_marker)
        for text, folded, problem in zip(texts, column.folded, asked, strict=True)
    ]
    strict = [[event for event in of_text if event.kind == "strict"] for of_text in events]
    first = [onset(of_text, rules) if of_text else None for of_text in events]
    onsets = [None if event is None else tokens[row][events[row].index(event)] for row, event in enumerate(first)]
    strict_tokens = [tokens[row][events[row].index(own[0])] if own else None for row, own in enumerate(strict)]
    return pa.table(
        {
            "fingerprint": completions.column("fingerprint"),
            "problem_id": completions.column("problem_id"),
            "sample_id": completions.column("sample_id"),
            "rules_digest": [rules_digest(rules)] * n,
            "has_strict": [bool(own) for own in strict],
            "has_relaxed": [bool(of_text) for of_text in events],
            "n_strict": list(map(len, strict)),
            "n_relaxed": list(map(len, events)),
            "onset_phrase": [None if event is None else event.phrase for event in first],
            "onset_character": [None if event is None else event.start for event in first],
            "onset_token": onsets,
            "first_strict_token": strict_tokens,
            "completion_class": [own.completion for own in classes],
            "n_genuine": [own.events.count("genuine") for own in classes],
            "n_filler": [own.events.count("filler") for own in classes],
            "n_silent": [own.n_silent for own in classes],
            "event_phrases": [[event.phrase for event in of_text] for of_text in events],
            "event_kinds": [[event.kind for event in of_text] for of_text in events],
            "event_starts": [[event.start for event in of_text] for of_text in events],
            "event_ends": [[event.end for event in of_text] for of_text in events],
            "event_tokens": tokens,
            "event_classes": [own.events for own in classes],
            "degenerate": [rule is not None for rule in broken],
            "degeneration_rule": broken,
            "answer": [answer.found for answer in answers],
            "verdict": [answer.verdict for answer in answers],
            "correct": [answer.verdict == "correct" for answer in answers],
            "truncated": truncated,
            **{name: [None] * n if steps is None else steps.counts[name] for name in STEP_COLUMNS},
            "run_id": [run_id] * n,
        },
        schema=DETECTIONS,
    )


def _classes(
    texts: Sequence[str],
    events: Sequence[Sequence[Event]],
    steps: StepColumns | None,
    broken: Sequence[str | None],
    truncated: Sequence[bool],
) -> list[Classes]:
    """The classes of each text, exact where its steps are known."""
    degenerate = [rule is not None for rule in broken]
    if steps is None:
        return classify_texts(texts, events, degenerate, truncated)
    firsts, starts, ends = steps.firsts.tolist(), steps.starts.tolist(), steps.ends.tolist()
    redos = steps.redos.tolist()
    bounds = [bisect_left(redos, first) for first in firsts]
    return [
        classify_steps(
            text,
            own,
            ends[firsts[row] : firsts[row + 1]] if own else (),
            [Span(starts[at], ends[at]) for at in redos[bounds[row] : bounds[row + 1]]],
            degenerate=degenerate[row],
            cut_off=truncated[row],
        )
        for row, (text, own) in enumerate(zip(texts, events, strict=True))
    ]


def _tokens(token_starts: npt.NDArray[np.int32], events: Sequence[Event], problem: Problem) -> list[int]:
    """The token of each event, by the rule of `token_at`, without a Python list of a long text's tokens."""
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
