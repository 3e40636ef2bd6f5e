"""Schemas of phase 1's scan: the logit lens, every component's effect at one position, and the components selected."""

from typing import Literal

import pyarrow as pa

ScanMode = Literal["zero", "mean"]
"""Where a component's output is moved to: 0, or its mean over decode positions."""

MODES: tuple[ScanMode, ...] = ("zero", "mean")

EMBEDDING = -1
"""Stands for a layer in the logit lens: the stream before the first one."""


def _schema(*fields: tuple[str, pa.DataType, bool]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=nullable) for name, kind, nullable in fields])


_STRING, _INT32, _INT64, _DOUBLE = pa.string(), pa.int32(), pa.int64(), pa.float64()

_POSITION = (
    ("fingerprint", _STRING, False),  # of the baseline
    ("problem_id", _STRING, False),
    ("sample_id", _INT32, False),
    ("token_index", _INT32, False),  # index into token_ids of the token that is predicted
    ("kind", _STRING, False),  # event or control
    ("event_problem_id", _STRING, False),  # the event that a control is matched with; an event's own key
    ("event_sample_id", _INT32, False),
    ("onset_token_id", _INT32, False),  # the token that began the event; at a control, that of its event
    ("same_draw", pa.bool_(), False),  # whether the baseline's own noise draws the baseline's token here
)
_COMPUTED = (("scan_digest", _STRING, False), ("run_id", _STRING, False))

LENS_POSITIONS = _schema(
    *_POSITION,
    ("layer", _INT32, False),  # EMBEDDING before the first layer
    ("onset_logit", _DOUBLE, False),
    ("onset_log_probability", _DOUBLE, False),  # nats
    ("onset_rank", _INT64, False),  # 1 is the most probable
    ("largest_deviation", _DOUBLE, False),  # of the last layer's lens from the model's logits, at this position
    ("tolerance", _DOUBLE, False),  # what of it is put down to rounding
    ("device", _STRING, False),
    *_COMPUTED,
)

LENS_SUMMARIES = _schema(
    ("layer", _INT32, False),
    ("measure", _STRING, False),  # onset_logit, onset_log_probability or onset_rank
    ("event_estimate", _DOUBLE, False),
    ("event_low", _DOUBLE, True),  # NULL with a single problem
    ("event_high", _DOUBLE, True),
    ("control_estimate", _DOUBLE, True),  # NULL where no event has a matched position
    ("control_low", _DOUBLE, True),
    ("control_high", _DOUBLE, True),
    ("difference", _DOUBLE, True),  # event minus its matched position, over the pairs
    ("difference_low", _DOUBLE, True),
    ("difference_high", _DOUBLE, True),
    ("p_value", _DOUBLE, True),
    ("p_holm", _DOUBLE, True),  # corrected over the layers of the same measure
    ("n_events", _INT64, False),
    ("n_event_problems", _INT64, False),
    ("n_pairs", _INT64, False),
    ("n_pair_problems", _INT64, False),
    ("method", _STRING, False),
    ("statistics_digest", _STRING, False),
    *_COMPUTED,
)

FIGURES = (
    "onset_logit",
    "onset_log_probability",
    "onset_margin",
    "logit_difference",
    "trigger_log_probability",
    "trigger_log_odds",
    "ordinary_log_probability",
    "ordinary_log_odds",
)
"""What is measured of the next token's distribution; its change under each component is stored."""

DIVERGENCES = ("kl", "kl_trigger", "kl_ordinary")
"""Distances of the changed distribution to the unscaled one."""

SCAN_POSITIONS = _schema(
    *_POSITION,
    ("ordinary_token_id", _INT32, False),  # at an event the most probable token that begins no trigger; else the drawn
    *((name, _DOUBLE, False) for name in FIGURES),  # without any intervention
    ("largest_deviation", _DOUBLE, False),  # of the scan's unscaled row from a decode step without hooks
    ("tolerance", _DOUBLE, False),
    ("device", _STRING, False),
    *_COMPUTED,
)

COMPONENT_EFFECTS = _schema(
    ("fingerprint", _STRING, False),
    ("problem_id", _STRING, False),
    ("sample_id", _INT32, False),
    ("layer", _INT32, False),
    ("component", _STRING, False),  # attention or mlp
    ("mode", _STRING, False),  # zero or mean
    *((name, _DOUBLE, False) for name in FIGURES),  # minus the unscaled row: below 0 where the component raised it
    *((name, _DOUBLE, False) for name in DIVERGENCES),  # nats
    ("n_firings", _INT32, False),  # components that changed the row
    *_COMPUTED,
)

COMPONENT_SUMMARIES = _schema(
    ("layer", _INT32, False),
    ("component", _STRING, False),
    ("mode", _STRING, False),
    ("kind", _STRING, False),  # event or control; of paired measures, event
    ("measure", _STRING, False),  # a column of component_effects, or specific_drop
    ("estimate", _DOUBLE, False),
    ("low", _DOUBLE, True),  # NULL with a single problem
    ("high", _DOUBLE, True),
    ("p_value", _DOUBLE, True),  # of a change against none; NULL of distances, which are never below 0
    ("p_holm", _DOUBLE, True),  # corrected over the components of the same mode, kind and measure
    ("n", _INT64, False),
    ("n_problems", _INT64, False),
    ("method", _STRING, False),
    ("statistics_digest", _STRING, False),
    *_COMPUTED,
)

SELECTED_COMPONENTS = _schema(
    ("component", _STRING, False),
    ("layer", _INT32, False),
    ("rank", _INT32, False),  # 1 is the best of its kind
    ("selected", pa.bool_(), False),  # among the first `top`
    ("score", _DOUBLE, False),  # nats, by the criterion
    ("low", _DOUBLE, True),
    ("high", _DOUBLE, True),
    ("selected_share", _DOUBLE, False),  # of the bootstrap resamples in which it is among the first `top`
    ("n_events", _INT64, False),
    ("n_problems", _INT64, False),
    ("criterion", _STRING, False),
    ("selection_digest", _STRING, False),
    *_COMPUTED,
)
