"""What a person sees on a materialization's page in Dagster: figures, tables, examples, schemas."""

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import dagster as dg
import pyarrow as pa

from backtracking_assets.measures import MEASURES
from backtracking_assets.reporting.contents import Example
from backtracking_assets.reporting.continuation import ContinuationTable
from backtracking_assets.reporting.text import shorten, visible

_EXCERPT_CHARACTERS = 600
_INLINE_CHARACTERS = 300
_MARKUP = frozenset("\\`*_{}[]()<>#+-.!|&~$:@\"'/")
"""What may mean something in Markdown or HTML, the parts of a bare link among them."""


def column_schema(schema: pa.Schema) -> dg.TableSchemaMetadataValue:
    """An Arrow schema as Dagster shows it."""
    columns = [
        dg.TableColumn(field.name, str(field.type), constraints=dg.TableColumnConstraints(nullable=field.nullable))
        for field in schema
    ]
    return dg.MetadataValue.table_schema(dg.TableSchema(columns))


def png_figure(png: bytes, alt: str) -> dg.MarkdownMetadataValue:
    """A figure that the page shows without fetching anything."""
    return dg.MetadataValue.md(f"![{alt}](data:image/png;base64,{base64.b64encode(png).decode()})")


def metrics_table(rows: Iterable[dict[str, Any]]) -> dg.MarkdownMetadataValue:
    """A cell's metrics with interval and n, in the order in which people read them."""
    order = list(MEASURES)
    lines = ["| measure | estimate | interval | n | problems |", "|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: order.index(row["metric"])):
        label = MEASURES[row["metric"]].label
        lines.append(
            f"| {label} | {_number(row['estimate'])} | [{_number(row['low'])}, {_number(row['high'])}] "
            f"| {row['n']} | {row['n_problems']} |"
        )
    return dg.MetadataValue.md("\n".join(lines))


def table_md(table: ContinuationTable) -> dg.MarkdownMetadataValue:
    """A table of texts."""
    lines = [[column.title for column in table.columns], ["---"] * len(table.columns), *table.rows]
    return dg.MetadataValue.md("\n".join(f"| {' | '.join(line)} |" for line in lines))


def examples_md(examples: Sequence[Example]) -> dg.MarkdownMetadataValue:
    """Example completions as code blocks, in which nothing is interpreted."""
    parts = []
    for example in examples:
        problem_id = inline_md(example.problem_id)
        title = f"**{problem_id}, sample {example.sample_id}**: {example.completion.verdict}"
        text = visible(shorten(example.completion.text, _EXCERPT_CHARACTERS))
        parts.append(f"{title}\n\n" + "\n".join(f"    {line}" for line in text.split("\n")))
    return dg.MetadataValue.md("\n\n".join(parts) or "There is no completion to show.")


def inline_md(text: str, limit: int = _INLINE_CHARACTERS) -> str:
    """A text as part of a line of Markdown that shows it and nothing else: no markup, no HTML, nothing hidden."""
    shown = visible(" ".join(shorten(text, limit).split()))
    return "".join(f"&#{ord(character)};" if character in _MARKUP else character for character in shown)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def comparisons_table(rows: Iterable[dict[str, Any]]) -> dg.MarkdownMetadataValue:
    """Differences to the baseline with interval, corrected p-value, and the variance ratio of shared noise."""
    titles = ("subset", "scale", "measure", "difference", "interval", "p (Holm)", "pairs", "variance ratio", "interval")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        lines.append(
            f"| {row['layer_subset']} | {row['scale']:g} | {MEASURES[row['metric']].label} "
            f"| {_number(row['difference'])} | [{_number(row['low'])}, {_number(row['high'])}] "
            f"| {_number(row['p_holm'])} | {row['n_pairs']} | {_number(row['variance_ratio'])} "
            f"| [{_number(row['variance_ratio_low'])}, {_number(row['variance_ratio_high'])}] |"
        )
    return dg.MetadataValue.md("\n".join(lines))
