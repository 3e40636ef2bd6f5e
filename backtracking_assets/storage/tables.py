"""Tables and views of the database, with their keys. SQL types follow from the Arrow schemas."""

from dataclasses import dataclass

import pyarrow as pa

from backtracking_assets.records import (
    CHECKS,
    COMPARISONS,
    COMPLETION_KEY,
    COMPLETIONS,
    CONTINUATION_POSITIONS,
    CONTINUATION_SAMPLES,
    CONTINUATION_SUMMARIES,
    DETECTIONS,
    METRICS,
)
from backtracking_assets.variant_records import VARIANT_CHECKS, VARIANT_METRICS, VARIANTS

SCHEMA_VERSION = 3
"""Raised with every change of a table or a view."""

_STRING, _INT32, _INT64, _DOUBLE, _BOOL = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()
_TIME, _STRINGS = pa.timestamp("us", tz="UTC"), pa.list_(pa.string())


def _schema(*fields: tuple[str, pa.DataType, bool]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=nullable) for name, kind, nullable in fields])


CELLS = _schema(
    ("layer_subset", _STRING, False),
    ("scale", _DOUBLE, False),
    ("fingerprint", _STRING, False),
    ("problem_set_digest", _STRING, False),
    ("n_samples", _INT32, False),
    ("n_completions", _INT64, False),
    ("rules_digest", _STRING, True),  # NULL until the cell's completions are read by detection rules
    ("linked", _BOOL, False),  # another cell was linked to the condition before
    ("run_id", _STRING, False),
    ("committed_at", _TIME, False),
)

CONDITIONS = _schema(
    ("fingerprint", _STRING, False),
    ("condition", _STRING, False),  # canonical JSON, whose sha256 is the fingerprint
    ("weights_digest", _STRING, False),
    ("tokenizer_digest", _STRING, False),
    ("dtype", _STRING, False),
    ("temperature", _DOUBLE, False),
    ("top_p", _DOUBLE, False),
    ("max_new_tokens", _INT64, False),
    ("seed", _INT64, False),
    ("scale", _DOUBLE, False),  # 1.0 where nothing is intervened on
    ("components", _STRINGS, False),  # such as attention.15
    ("n_completions", _INT64, False),
    ("created_at", _TIME, False),  # when the first of its completions was generated
    ("run_id", _STRING, False),
)

PROBLEM_SETS = _schema(
    ("problem_set_digest", _STRING, False),
    ("problem_id", _STRING, False),
    ("question", _STRING, False),
    ("answer", _STRING, False),
)

SETTINGS = _schema(
    ("digest", _STRING, False),
    ("kind", _STRING, False),  # detection or statistics
    ("content", _STRING, False),  # canonical JSON, whose sha256 is the digest
)

LAYER_SUBSETS = _schema(
    ("layer_subset", _STRING, False),
    ("kind", _STRING, False),  # components or trigger_logits
    ("components", _STRINGS, False),
    ("towards", _STRING, True),  # zero or mean; NULL for trigger_logits
    ("means_digest", _STRING, True),  # NULL unless towards is mean
    ("trigger_tokens", pa.list_(_INT32), True),  # NULL unless kind is trigger_logits
    ("digest", _STRING, False),
    ("control_of", _STRING, True),  # NULL for a targeted subset
    ("derived_from", _STRING, True),  # what ranked its components; NULL where they are listed
)


@dataclass(frozen=True)
class Table:
    """A table of the database: its columns and the columns of its primary key."""

    name: str
    schema: pa.Schema
    key: tuple[str, ...]

    def create_sql(self) -> str:
        columns = [
            f'"{field.name}" {sql_type(field.type)}{"" if field.nullable else " not null"}' for field in self.schema
        ]
        key = ", ".join(f'"{column}"' for column in self.key)
        return f'create table "{self.name}" ({", ".join(columns)}, primary key ({key}))'


TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table("conditions", CONDITIONS, ("fingerprint",)),
        Table("completions", COMPLETIONS, COMPLETION_KEY),
        Table("problem_sets", PROBLEM_SETS, ("problem_set_digest", "problem_id")),
        Table("layer_subsets", LAYER_SUBSETS, ("layer_subset",)),
        Table("cells", CELLS, ("layer_subset", "scale")),
        Table("detections", DETECTIONS, (*COMPLETION_KEY, "rules_digest")),
        Table("metrics", METRICS, ("layer_subset", "scale", "metric")),
        Table("comparisons", COMPARISONS, ("layer_subset", "scale", "metric")),
        Table("settings", SETTINGS, ("digest",)),
        Table("checks", CHECKS, ("layer_subset", "scale", "asset", "name")),
        Table("continuation_positions", CONTINUATION_POSITIONS, (*COMPLETION_KEY, "layer_subset", "scale")),
        Table("continuation_samples", CONTINUATION_SAMPLES, (*COMPLETION_KEY, "layer_subset", "scale", "scaled_at")),
        Table(
            "continuation_summaries",
            CONTINUATION_SUMMARIES,
            ("layer_subset", "scale", "kind", "scaled_at", "measure"),
        ),
        Table("variants", VARIANTS, ("variant",)),
        Table("variant_metrics", VARIANT_METRICS, ("variant", "metric")),
        Table("variant_checks", VARIANT_CHECKS, ("variant", "asset", "name")),
    )
}


def sql_type(kind: pa.DataType) -> str:
    """The DuckDB type that holds an Arrow type without loss.

    Raises:
        TypeError: no table of this project has such a column.
    """
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    names = {
        _STRING: "varchar",
        _INT32: "integer",
        _INT64: "bigint",
        _DOUBLE: "double",
        _BOOL: "boolean",
        _TIME: "timestamp with time zone",
    }
    if kind not in names:
        raise TypeError(f"no DuckDB type is chosen for Arrow type {kind}")
    return names[kind]


def create_statements() -> list[str]:
    """SQL that turns an empty database into one of this version."""
    return [
        "create table schema_version (version integer not null primary key)",
        f"insert into schema_version values ({SCHEMA_VERSION})",
        *(table.create_sql() for table in TABLES.values()),
        _generations_view(),
        _RESULTS_VIEW,
    ]


def _generations_view() -> str:
    """Cell x completion: the completions of the cell's condition, problems and first samples, with their detections."""
    shared = {*COMPLETION_KEY, "rules_digest", "run_id"}
    completion = ", ".join(f"completions.{name}" for name in COMPLETIONS.names)
    detection = ", ".join(f"detections.{name}" for name in DETECTIONS.names if name not in shared)
    return f"""
        create view generations as
        select
            cells.layer_subset, cells.scale, {completion},
            detections.rules_digest, {detection}, detections.run_id as detection_run_id
        from cells
        join problem_sets on problem_sets.problem_set_digest = cells.problem_set_digest
        join completions
            on completions.fingerprint = cells.fingerprint
            and completions.problem_id = problem_sets.problem_id
            and completions.sample_id < cells.n_samples
        left join detections
            on detections.fingerprint = completions.fingerprint
            and detections.problem_id = completions.problem_id
            and detections.sample_id = completions.sample_id
            and detections.rules_digest = cells.rules_digest
    """


_RESULTS_VIEW = """
    create view results as
    select
        metrics.layer_subset, metrics.scale, metrics.metric,
        metrics.estimate, metrics.low, metrics.high, metrics.n, metrics.n_problems,
        comparisons.difference, comparisons.low as difference_low, comparisons.high as difference_high,
        comparisons.p_value, comparisons.p_holm,
        layer_subsets.components, layer_subsets.towards, layer_subsets.control_of
    from metrics
    left join comparisons
        on comparisons.layer_subset = metrics.layer_subset
        and comparisons.scale = metrics.scale
        and comparisons.metric = metrics.metric
    left join layer_subsets on layer_subsets.layer_subset = metrics.layer_subset
"""
