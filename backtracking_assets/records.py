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
    ("difference", _DOUBLE, True),  # this cell minus the baseline, in the measure's unit
    ("low", _DOUBLE, True),
    ("high", _DOUBLE, True),
    ("p_value", _DOUBLE, True),
    ("p_holm", _DOUBLE, True),  # corrected over the plan's comparisons of the same metric
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
