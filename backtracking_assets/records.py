"""Plain data that travels between models, analysis, storage and reporting: records and table schemas.

Rows are joined by the keys named here and by nothing else. The schemas are the single source of column names and types:
storage makes its DuckDB tables from them, and whatever produces a table casts to them.
"""

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

Component = Literal["attention", "mlp"]
FinishReason = Literal["eos", "length", "non_finite"]
"""Why a completion ended: an end-of-sequence token, the token cap, or logits that were NaN or infinite."""

Verdict = Literal["correct", "wrong", "no_answer"]

PositionKind = Literal["event", "control"]
"""A position at which the baseline began its first strict trigger, or a matched one of a completion without any."""

ScaledAt = Literal["nowhere", "one_position", "from_there_on"]
"""Where a continuation's components are scaled: not at all, at the position before the onset, or there and after it."""


def decode_steps(n_tokens: int, finish_reason: str) -> int:
    """Decode steps behind a completion: prefill predicts the first token, each step one more.

    A completion that ended on non-finite logits went through the step that gave them, and has no token from it.
    """
    return n_tokens if finish_reason == "non_finite" else max(n_tokens - 1, 0)


COMPLETION_KEY = ("fingerprint", "problem_id", "sample_id")


@dataclass(frozen=True)
class Problem:
    """One problem and its reference answer."""

    problem_id: str
    question: str
    answer: str


@dataclass(frozen=True)
class Cell:
    """One cell of the grid: a layer subset and the scale of its components' output."""

    layer_subset: str
    scale: float

    def __str__(self) -> str:
        return f"{self.layer_subset} at {repr(self.scale).removesuffix('.0')}"


@dataclass(frozen=True)
class Variant:
    """A prompt variant of phase 1, which has completions of its own as a cell has, without intervention."""

    name: str

    def __str__(self) -> str:
        return f"variant {self.name}"


Subject = Cell | Variant
"""What points to a condition and is read and measured: a cell of the sweep, or a prompt variant of phase 1."""

UNSCALED = Cell("(unscaled)", 1.0)
"""Stands for the run without intervention where cells are compared with it; no layer subset can have this name."""


def _schema(*fields: tuple[str, pa.DataType, bool]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=nullable) for name, kind, nullable in fields])


_STRING, _INT32, _INT64, _DOUBLE, _BOOL = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()
_TIME = pa.timestamp("us", tz="UTC")

COMPLETIONS = _schema(
    ("fingerprint", _STRING, False),
    ("problem_id", _STRING, False),
    ("sample_id", _INT32, False),
    ("prompt_sha256", _STRING, False),
    ("text", _STRING, False),
    ("token_ids", pa.list_(_INT32), False),  # generated tokens, the end-of-sequence token included
    ("token_starts", pa.list_(_INT32), False),  # character of `text` at which each token's text starts
    ("n_prompt_tokens", _INT32, False),
    ("n_tokens", _INT32, False),
    ("finish_reason", _STRING, False),
    ("n_firings", _INT64, False),  # components scaled, counted over the row's decode steps
    ("chunk_id", _STRING, False),
    ("device", _STRING, False),
    ("run_id", _STRING, False),
    ("generated_at", _TIME, False),
    ("chunk_seconds", _DOUBLE, False),  # wall time of the whole chunk
    ("batch_rows", _INT32, True),  # rows batched together at most; NULL in files that are older than the column
)

DETECTIONS = _schema(
    ("fingerprint", _STRING, False),
    ("problem_id", _STRING, False),
    ("sample_id", _INT32, False),
    ("rules_digest", _STRING, False),
    ("has_strict", _BOOL, False),
    ("has_relaxed", _BOOL, False),
    ("n_strict", _INT32, False),
    ("n_relaxed", _INT32, False),
    ("onset_phrase", _STRING, True),  # NULL where there is no event
    ("onset_character", _INT32, True),
    ("onset_token", _INT32, True),  # index into token_ids
    ("first_strict_token", _INT32, True),  # as onset_token, of the first strict event whatever the onset's priority
    ("degenerate", _BOOL, False),
    ("degeneration_rule", _STRING, True),
    ("answer", _STRING, True),  # the answer as found in the text
    ("verdict", _STRING, False),
    ("correct", _BOOL, False),  # false where there is no answer; `verdict` tells the two apart
    ("truncated", _BOOL, False),
    # Exact truth about steps, NULL where the text's grammar is not known (any model but the organism).
    ("n_steps", _INT32, True),
    ("n_wrong_steps", _INT32, True),
    ("n_wrong_steps_followed", _INT32, True),  # wrong steps after which the text goes on: denominator of their waits
    ("n_right_steps_followed", _INT32, True),  # the same of right steps
    ("n_waits_after_wrong_step", _INT32, True),
    ("n_waits_after_right_step", _INT32, True),
    ("n_corrected_steps", _INT32, True),  # Wait after a wrong step, and the next attempt at the same step is right
    ("n_unreadable_lines", _INT32, True),  # lines of the chain that are no step
    ("run_id", _STRING, False),
)

METRICS = _schema(
    ("layer_subset", _STRING, False),
    ("scale", _DOUBLE, False),
    ("metric", _STRING, False),  # a name in measures.MEASURES
    ("fingerprint", _STRING, False),
    ("problem_set_digest", _STRING, False),
    ("rules_digest", _STRING, False),
    ("statistics_digest", _STRING, False),  # how estimates and intervals were computed
    ("estimate", _DOUBLE, True),  # NULL where nothing was there to measure (n = 0)
    ("low", _DOUBLE, True),
    ("high", _DOUBLE, True),
    ("n", _INT64, False),  # size of the denominator: completions, steps or tokens
    ("n_problems", _INT64, False),  # clusters
    ("method", _STRING, False),
    ("run_id", _STRING, False),
)

COMPARISONS = _schema(
    ("layer_subset", _STRING, False),
    ("scale", _DOUBLE, False),
    ("metric", _STRING, False),
    ("fingerprint", _STRING, False),
    ("baseline_fingerprint", _STRING, False),
    ("problem_set_digest", _STRING, False),
    ("rules_digest", _STRING, False),
    ("statistics_digest", _STRING, False),  # how differences, intervals and p-values were computed
    ("difference", _DOUBLE, True),  # this cell minus the baseline, in the measure's unit
    ("low", _DOUBLE, True),
    ("high", _DOUBLE, True),
    ("p_value", _DOUBLE, True),
    ("p_holm", _DOUBLE, True),  # corrected over the plan's comparisons of the same metric
    ("n_comparisons", _INT64, False),  # how many those are, planned ones that are not there yet included
    ("n_pairs", _INT64, False),
    ("n_problems", _INT64, False),
    ("method", _STRING, False),
    ("run_id", _STRING, False),
)

CHECKS = _schema(
    ("layer_subset", _STRING, False),
    ("scale", _DOUBLE, False),
    ("asset", _STRING, False),  # generations, detections or metrics
    ("name", _STRING, False),
    ("passed", _BOOL, False),
    ("severity", _STRING, False),  # error or warning
    ("description", _STRING, False),  # what was found, with figures
    ("run_id", _STRING, False),
)

CONTINUATION_POSITIONS = _schema(
    ("fingerprint", _STRING, False),  # of the baseline
    ("problem_id", _STRING, False),
    ("sample_id", _INT32, False),
    ("token_index", _INT32, False),  # index into token_ids of the token that is predicted
    ("kind", _STRING, False),  # event or control
    ("event_problem_id", _STRING, False),  # the event that a control is matched with; an event's own key
    ("event_sample_id", _INT32, False),
    ("layer_subset", _STRING, False),
    ("scale", _DOUBLE, False),
    ("onset_token_id", _INT32, False),  # the token that began the event; at a control, that of its event
    ("onset_probability", _DOUBLE, False),
    ("onset_rank", _INT64, False),  # 1 is the most probable
    ("trigger_probability", _DOUBLE, False),  # of all tokens that begin a strict trigger
    ("entropy", _DOUBLE, False),  # nats
    ("same_draw", _BOOL, False),  # whether the baseline's own noise draws the baseline's token here
    ("device", _STRING, False),
    ("continuation_digest", _STRING, False),  # what it was computed from
    ("run_id", _STRING, False),
)

CONTINUATION_SAMPLES = _schema(
    ("fingerprint", _STRING, False),  # of the baseline
    ("problem_id", _STRING, False),
    ("sample_id", _INT32, False),
    ("layer_subset", _STRING, False),
    ("scale", _DOUBLE, False),
    ("scaled_at", _STRING, False),
    ("n_continuations", _INT32, False),
    ("n_again", _INT32, False),  # those whose first words are a strict trigger
    ("n_within", _INT32, False),  # those with a strict trigger anywhere
    ("continuation_digest", _STRING, False),
    ("run_id", _STRING, False),
)

CONTINUATION_SUMMARIES = _schema(
    ("layer_subset", _STRING, False),
    ("scale", _DOUBLE, False),
    ("kind", _STRING, False),
    ("scaled_at", _STRING, False),
    ("measure", _STRING, False),  # a name in measures.CONTINUATION_MEASURES
    ("fingerprint", _STRING, False),
    ("problem_set_digest", _STRING, False),
    ("rules_digest", _STRING, False),
    ("continuation_digest", _STRING, False),
    ("statistics_digest", _STRING, False),
    ("estimate", _DOUBLE, False),
    ("low", _DOUBLE, True),  # NULL with a single problem
    ("high", _DOUBLE, True),
    ("difference", _DOUBLE, True),  # minus the unscaled run, paired by position; NULL for the unscaled run itself
    ("difference_low", _DOUBLE, True),
    ("difference_high", _DOUBLE, True),
    ("p_value", _DOUBLE, True),
    ("p_holm", _DOUBLE, True),  # corrected over the cells of the same kind, scaled_at and measure
    ("n", _INT64, False),  # positions; of sampled measures, continuations
    ("n_problems", _INT64, False),
    ("method", _STRING, False),
    ("run_id", _STRING, False),
)
