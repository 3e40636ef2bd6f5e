"""Schemas of what phase 1 finds: prompt variants, conditions, and backtracking against accuracy in the baseline."""

import pyarrow as pa


def _schema(*fields: tuple[str, pa.DataType, bool]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=nullable) for name, kind, nullable in fields])


_STRING, _INT64, _DOUBLE = pa.string(), pa.int64(), pa.float64()

_ESTIMATE = (
    ("estimate", _DOUBLE, True),  # NULL where nothing was there to measure (n = 0)
    ("low", _DOUBLE, True),
    ("high", _DOUBLE, True),
    ("n", _INT64, False),  # size of the denominator
    ("n_problems", _INT64, False),  # clusters
    ("method", _STRING, False),
)
_DIFFERENCE = (
    ("difference", _DOUBLE, True),  # paired; NULL for the reference itself
    ("difference_low", _DOUBLE, True),
    ("difference_high", _DOUBLE, True),
    ("p_value", _DOUBLE, True),
    ("p_holm", _DOUBLE, True),  # corrected over the comparisons of the same metric in this table
    ("n_comparisons", _INT64, False),  # how many those are, planned ones that are not there yet included
    ("n_pairs", _INT64, True),
    ("difference_method", _STRING, True),
)
_ORIGIN = (
    ("fingerprint", _STRING, False),
    ("problem_set_digest", _STRING, False),
    ("rules_digest", _STRING, False),
    ("statistics_digest", _STRING, False),
    ("inputs_digest", _STRING, False),  # of everything that the table was computed from
    ("run_id", _STRING, False),
)

FORMATTING = _schema(
    ("variant", _STRING, False),
    ("metric", _STRING, False),  # a name in measures.MEASURES
    ("reference_variant", _STRING, False),  # the sweep's own
    *_ESTIMATE,
    *_DIFFERENCE,
    *_ORIGIN,
)

CONDITION_COMPARISON = _schema(
    ("layer_subset", _STRING, False),
    ("scale", _DOUBLE, False),
    ("metric", _STRING, False),
    ("role", _STRING, False),  # baseline, targeted or random
    *_ESTIMATE,
    *_DIFFERENCE,
    *_ORIGIN,
)

BACKTRACKING_ACCURACY = _schema(
    ("variant", _STRING, False),
    ("completions", _STRING, False),  # all, where no answer is no right one; or answered alone
    ("figure", _STRING, False),  # a name in measures.BACKTRACKING_FIGURES
    ("n_correct", _INT64, True),  # NULL where the figure compares two groups
    *_ESTIMATE,
    ("p_value", _DOUBLE, True),
    ("p_holm", _DOUBLE, True),  # corrected over the variants
    *_ORIGIN,
)
