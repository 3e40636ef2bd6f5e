"""Reading every completion of a table: triggers, degeneration, answer and steps, one row of DETECTIONS each."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from operator import le
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backtracking_assets import conditions
from backtracking_assets.analysis.answers import judge_folded, warm_up
from backtracking_assets.analysis.backtracking_classes import classify_texts
from backtracking_assets.analysis.class_columns import chain_classes, class_columns
from backtracking_assets.analysis.degeneration import degeneration_rules
from backtracking_assets.analysis.event_columns import EventColumns, event_columns, in_rows, taken
from backtracking_assets.analysis.step_columns import read_step_columns
from backtracking_assets.analysis.text_columns import TextColumn, events_of
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
_KEYS = ("problem_id", "sample_id", "fingerprint")
_ROWS_TOGETHER = 512
"""Rows that are read at once."""


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
    ordered = _ordered(completions.select(_READ))
    digest = rules_digest(rules)
    parts = [
        _detections(ordered.slice(begin, _ROWS_TOGETHER), problems, rules, digest, run_id)
        for begin in range(0, ordered.num_rows, _ROWS_TOGETHER)
    ]
    return pa.concat_tables(parts) if parts else DETECTIONS.empty_table()


def _ordered(completions: pa.Table) -> pa.Table:
    """Completions in the order of `_KEYS`, in which they mostly are."""
    keys = list(zip(*(completions.column(name).to_pylist() for name in _KEYS), strict=True))
    if all(map(le, keys, keys[1:])):
        return completions
    return completions.sort_by([(name, "ascending") for name in _KEYS])


def _detections(
    completions: pa.Table, problems: Mapping[str, Problem], rules: Detection, digest: str, run_id: str
) -> pa.Table:
    """The rows of some completions, in their order. What many texts share is looked for in all at once."""
    n = completions.num_rows
    texts = completions.column("text").to_pylist()
    asked = [problems[problem_id] for problem_id in completions.column("problem_id").to_pylist()]
    truncated = np.array([reason == "length" for reason in completions.column("finish_reason").to_pylist()], dtype=bool)
    column = TextColumn(texts)
    of_texts = events_of(column, rules)
    events = event_columns(of_texts)
    tokens = _tokens(_lists(completions, "token_starts"), events, asked)
    broken = degeneration_rules(column, _lists(completions, "token_ids"), rules)
    degenerate = np.array([rule is not None for rule in broken], dtype=bool)
    if rules.steps == "arithmetic_chain":
        steps = read_step_columns(texts, [problem.question for problem in asked], rules)
        classes = chain_classes(np.fromiter(map(len, texts), np.int64, count=n), events, steps, degenerate, truncated)
        counts = steps.counts
    else:
        classes = class_columns(classify_texts(texts, of_texts, degenerate.tolist(), truncated.tolist()), events)
        counts = {name: pa.nulls(n) for name in STEP_COLUMNS}
    answers = [
        judge_folded(text, folded, problem.answer, rules.answer_marker)
        for text, folded, problem in zip(texts, column.folded, asked, strict=True)
    ]
    verdicts = [answer.verdict for answer in answers]
    onset, no_event = events.onsets(rules.priority)
    strict, no_strict = events.first_strict()
    kinds, phrases = (pa.array(column, type=pa.string()) for column in (events.kinds, events.phrases))
    starts, ends = (pa.array(column, type=pa.int32()) for column in (events.starts, events.ends))
    return pa.table(
        {
            "fingerprint": completions.column("fingerprint"),
            "problem_id": completions.column("problem_id"),
            "sample_id": completions.column("sample_id"),
            "rules_digest": pa.repeat(digest, n),
            "has_strict": ~no_strict,
            "has_relaxed": ~no_event,
            "n_strict": np.bincount(events.rows[events.strict], minlength=n),
            "n_relaxed": np.diff(events.offsets),
            "onset_phrase": taken(phrases, onset, no_event),
            "onset_character": taken(starts, onset, no_event),
            "onset_token": taken(tokens, onset, no_event),
            "first_strict_token": taken(tokens, strict, no_strict),
            "completion_class": classes.completions,
            "n_genuine": classes.n_genuine,
            "n_filler": classes.n_filler,
            "n_silent": classes.n_silent,
            "event_phrases": events.lists(phrases),
            "event_kinds": events.lists(kinds),
            "event_starts": events.lists(starts),
            "event_ends": events.lists(ends),
            "event_tokens": events.lists(tokens),
            "event_classes": events.lists(classes.events),
            "degenerate": degenerate,
            "degeneration_rule": broken,
            "answer": [answer.found for answer in answers],
            "verdict": verdicts,
            "correct": [verdict == "correct" for verdict in verdicts],
            "truncated": truncated,
            **{name: counts[name] for name in STEP_COLUMNS},
            "run_id": pa.repeat(run_id, n),
        },
        schema=DETECTIONS,
    )


def _tokens(
    token_starts: Sequence[npt.NDArray[np.int32]], events: EventColumns, problems: Sequence[Problem]
) -> pa.Int32Array:
    """The token of each event, by the rule of `token_at`, without a Python list of a long text's tokens."""
    sizes = np.fromiter(map(len, token_starts), dtype=np.int64, count=len(token_starts))
    firsts = np.cumsum(sizes) - sizes
    flat = in_rows(np.repeat(np.arange(len(sizes)), sizes), np.concatenate(token_starts))
    places = np.searchsorted(flat, in_rows(events.rows, events.starts), side="right") - 1 - firsts[events.rows]
    outside = np.flatnonzero(places < 0)
    if len(outside):
        event = int(outside[0])
        raise BacktrackingError(
            f"A completion of problem {problems[int(events.rows[event])].problem_id!r} has text that no token starts "
            f"before: no token starts at or before character {events.starts[event]}; its row is damaged, generate the "
            "cell anew."
        )
    return pa.array(places, type=pa.int32())


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
