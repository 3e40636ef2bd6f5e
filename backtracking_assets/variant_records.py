"""Schemas of the tables of phase 1's prompt variants: what stands for a cell there is the variant's name."""

import pyarrow as pa

from backtracking_assets.records import CHECKS, METRICS


def _of_variant(schema: pa.Schema) -> pa.Schema:
    """A schema of cells with the variant in place of the cell."""
    kept = [field for field in schema if field.name not in ("layer_subset", "scale")]
    return pa.schema([pa.field("variant", pa.string(), nullable=False), *kept])


VARIANTS = pa.schema(
    [
        pa.field("variant", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("problem_set_digest", pa.string(), nullable=False),
        pa.field("n_samples", pa.int32(), nullable=False),
        pa.field("n_completions", pa.int64(), nullable=False),
        pa.field("rules_digest", pa.string()),  # NULL until the completions are read by detection rules
        pa.field("linked", pa.bool_(), nullable=False),  # a cell or another variant was linked to the condition before
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("committed_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

VARIANT_METRICS = _of_variant(METRICS)

VARIANT_CHECKS = _of_variant(CHECKS)
