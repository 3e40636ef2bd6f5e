"""Tables of the positive control: how the scan ranks the components whose truth is known, and how well."""

from typing import Literal

import pyarrow as pa

TruthName = Literal["planted", "causal"]
"""The components that were trained to backtrack, or those of them whose loss lowers Wait after a wrong step."""

KINDS = ("all", "attention", "mlp")
"""What is ranked together."""

_STRING, _INT32, _INT64, _DOUBLE, _BOOL = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()


def _schema(*fields: tuple[str, pa.DataType, bool]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=nullable) for name, kind, nullable in fields])


POSITIVE_CONTROL_COMPONENTS = _schema(
    ("mode", _STRING, False),  # how the scan scaled: zero or mean
    ("measure", _STRING, False),  # the criterion by which components are ranked
    ("layer", _INT32, False),
    ("component", _STRING, False),  # attention or mlp
    ("importance", _DOUBLE, False),  # mean over events; higher is more important
    ("rank", _INT32, False),  # among all components, from 1; ties stand before what is planted
    ("rank_of_kind", _INT32, False),  # among attention blocks, or among MLPs
    ("planted", _BOOL, False),
    ("causal", _BOOL, False),  # planted, and its drop lies above the margin with its interval
    ("drop", _DOUBLE, True),  # of Wait after an injected wrong step, put back; NULL for what was never planted
    ("drop_low", _DOUBLE, True),
    ("drop_high", _DOUBLE, True),
    ("n", _INT64, False),  # events
    ("n_problems", _INT64, False),
    ("control_digest", _STRING, False),  # what all of it was computed from
    ("run_id", _STRING, False),
)

POSITIVE_CONTROL_FIGURES = _schema(
    ("part", _STRING, False),  # scan or sweep
    ("subject", _STRING, False),  # of the scan, the measure; of the sweep, the layer subset
    ("setting", _STRING, False),  # of the scan, the mode; of the sweep, the scale
    ("kind", _STRING, False),  # what is ranked: all, attention, mlp; of the sweep, draws
    ("truth", _STRING, False),  # planted or causal; of the sweep, empty
    ("figure", _STRING, False),  # precision_at_k, recall_at_2k, average_precision, roc_auc, or rank_among_draws
    ("estimate", _DOUBLE, False),
    ("low", _DOUBLE, True),  # NULL with a single problem, and for ranks
    ("high", _DOUBLE, True),
    ("p_value", _DOUBLE, True),  # of a random order, or of the rank; NULL for other figures
    ("chance", _DOUBLE, True),  # mean average precision of random orders; NULL for other figures
    ("n_true", _INT64, False),  # true components; of the sweep, 1
    ("n", _INT64, False),  # ranked components; of the sweep, the subset and its draws
    ("control_digest", _STRING, False),
    ("run_id", _STRING, False),
)
