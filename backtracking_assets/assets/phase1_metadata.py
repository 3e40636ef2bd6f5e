"""What Dagster shows of phase 1 as a whole, computed from the store."""

from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
from matplotlib.figure import Figure

from backtracking_assets.assets.presentation import column_schema, png_figure
from backtracking_assets.reporting.phase1_report import Phase1Report
from backtracking_assets.reporting.sections import Section, SectionTable, absent_titles
from backtracking_assets.reporting.style import to_png


def section_metadata(section: Section, figure: Figure, rows: pa.Table) -> dict[str, Any]:
    """Of a result that is one section of the page: its rows, sentences, tables and figure."""
    return {
        "dagster/row_count": rows.num_rows,
        "dagster/column_schema": column_schema(rows.schema),
        "found": dg.MetadataValue.md("\n\n".join(section.paragraphs)),
        "figures": dg.MetadataValue.md("\n\n".join(map(table_markdown, section.tables))),
        "figure": png_figure(to_png(figure, 96), section.title),
        "limits": dg.MetadataValue.md("\n".join(f"- {limit}" for limit in section.limits)),
    }


def phase1_report_metadata(report: Phase1Report, path: Path) -> dict[str, Any]:
    """Of `phase1_report`: where the page stands, and what it shows."""
    absent = absent_titles(report.sections)
    return {
        "sections": f"{len(report.sections) - len(absent)} of {len(report.sections)}",
        "not_measured": ", ".join(absent) or "nothing",
        "report": dg.MetadataValue.path(str(path)),
    }


def table_markdown(table: SectionTable) -> str:
    """A section's table as Markdown."""
    lines = [[column.title for column in table.columns], ["---"] * len(table.columns), *table.rows]
    return "\n".join([table.caption, "", *(f"| {' | '.join(line)} |" for line in lines)])
