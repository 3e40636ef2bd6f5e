"""Phase 1's scan for people: the sections of its page, and what Dagster shows, both computed from the store."""

from typing import Any

import dagster as dg
import pyarrow as pa

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.phase1_sections import SectionSource
from backtracking_assets.assets.presentation import column_schema, png_figure
from backtracking_assets.assets.scanning import (
    held_out_baseline,
    scan_digest,
    selection_digest,
    selection_file,
    settings_of,
    stored_lens,
    stored_scan,
    stored_selection,
)
from backtracking_assets.errors import StorageError
from backtracking_assets.reporting.scan_figures import lens_figure, scan_figure, selection_figure
from backtracking_assets.reporting.scan_sections import (
    LENS_TITLE,
    SCAN_TITLE,
    SELECTION_TITLE,
    ScanFacts,
    lens_section,
    scan_section,
    selection_section,
)
from backtracking_assets.reporting.sections import Section, SectionTable
from backtracking_assets.reporting.style import to_png
from backtracking_assets.scan_records import COMPONENT_SUMMARIES, LENS_SUMMARIES, SELECTED_COMPONENTS
from backtracking_assets.storage import queries

_DOTS_PER_INCH = 96


def lens_metadata(opened: OpenExperiment) -> dict[str, Any]:
    """Of `logit_lens`.

    Raises:
        StorageError: it is not stored, or computed from something else than the experiment file asks for now.
    """
    summaries = _required(stored_lens(opened), "logit_lens")
    return {
        **_told(
            built_lens(opened, pictured=False), LENS_SUMMARIES, queries.scan_table(opened.layout, "lens_positions")
        ),
        "figure": png_figure(to_png(lens_figure(summaries.to_pandas()), _DOTS_PER_INCH), "The onset token by layer"),
    }


def scan_metadata(opened: OpenExperiment) -> dict[str, Any]:
    """Of `component_importance`; raises as `lens_metadata`."""
    summaries = _required(stored_scan(opened), "component_importance").to_pandas()
    figure = scan_figure(summaries, _selected(opened))
    return {
        **_told(
            built_scan(opened, pictured=False), COMPONENT_SUMMARIES, queries.scan_table(opened.layout, "scan_positions")
        ),
        "figure": png_figure(to_png(figure, _DOTS_PER_INCH), "Every component"),
    }


def selection_metadata(opened: OpenExperiment) -> dict[str, Any]:
    """Of `selected_components`; raises as `lens_metadata`."""
    selection = _required(stored_selection(opened), "selected_components")
    told = _told(built_selection(opened, pictured=False), SELECTED_COMPONENTS, selection)
    figure = selection_figure(selection.to_pandas())
    return {
        **told,
        "file": dg.MetadataValue.path(str(selection_file(opened))),
        "figure": png_figure(to_png(figure, _DOTS_PER_INCH), "The best components"),
    }


def built_lens(opened: OpenExperiment, *, pictured: bool = True) -> Section:
    """The section on the logit lens; raises as `lens_metadata`."""
    summaries = _required(stored_lens(opened), "logit_lens")
    facts = _facts(opened, queries.scan_table(opened.layout, "lens_positions"))
    return lens_section(summaries.to_pandas(), facts, pictured=pictured)


def built_scan(opened: OpenExperiment, *, pictured: bool = True) -> Section:
    """The section on every component; raises as `lens_metadata`."""
    summaries = _required(stored_scan(opened), "component_importance")
    facts = _facts(opened, queries.scan_table(opened.layout, "scan_positions"))
    return scan_section(summaries.to_pandas(), _selected(opened), facts, pictured=pictured)


def built_selection(opened: OpenExperiment, *, pictured: bool = True) -> Section:
    """The section on the selected components; raises as `lens_metadata`."""
    selection = _required(stored_selection(opened), "selected_components")
    facts = _facts(opened, queries.scan_table(opened.layout, "scan_positions"))
    return selection_section(selection.to_pandas(), facts, pictured=pictured)


def _lens_version(opened: OpenExperiment) -> str | None:
    return None if stored_lens(opened) is None else scan_digest(opened, held_out_baseline(opened).stored)


def _scan_version(opened: OpenExperiment) -> str | None:
    """Of the scan and of the selection, whose components are framed in its figure."""
    if stored_scan(opened) is None:
        return None
    stored = held_out_baseline(opened).stored
    return scan_digest(opened, stored) if stored_selection(opened) is None else selection_digest(opened, stored)


def _selection_version(opened: OpenExperiment) -> str | None:
    return None if stored_selection(opened) is None else selection_digest(opened, held_out_baseline(opened).stored)


SCAN_SECTIONS = (
    SectionSource("logit_lens", "phase1_logit_lens", LENS_TITLE, _lens_version, built_lens),
    SectionSource("component_importance", "phase1_component_importance", SCAN_TITLE, _scan_version, built_scan),
    SectionSource(
        "selected_components", "phase1_selected_components", SELECTION_TITLE, _selection_version, built_selection
    ),
)
"""The scan's sections of phase 1's page, in order."""


def _required(table: pa.Table | None, asset: str) -> pa.Table:
    if table is None:
        raise StorageError(f"{asset} is not there, or computed from something else; materialize it first.")
    return table


def _selected(opened: OpenExperiment) -> frozenset[tuple[str, int]]:
    """The components that are selected now; none where no selection is current."""
    selection = stored_selection(opened)
    rows = [] if selection is None else selection.to_pylist()
    return frozenset((row["component"], row["layer"]) for row in rows if row["selected"])


def _facts(opened: OpenExperiment, positions: pa.Table) -> ScanFacts:
    held, settings = held_out_baseline(opened), settings_of(opened.experiment)
    onsets = held.detections["first_strict_token"].drop_null().to_pylist()
    columns = ["problem_id", "sample_id", "token_index", "kind", "event_problem_id", "event_sample_id"]
    rows = positions.select(columns).group_by(columns).aggregate([]).to_pylist()
    index_of = {(row["problem_id"], row["sample_id"]): row["token_index"] for row in rows if row["kind"] == "event"}
    distances = [
        abs(row["token_index"] - index_of[row["event_problem_id"], row["event_sample_id"]])
        for row in rows
        if row["kind"] == "control"
    ]
    return ScanFacts(
        confidence=opened.experiment.statistics.confidence,
        n_held_out=held.n_problems,
        n_completions=held.completions.num_rows,
        n_found=len(onsets),
        n_at_first_token=onsets.count(0),
        n_wanted=settings.events,
        n_events=len(index_of),
        n_event_problems=len({problem_id for problem_id, _ in index_of}),
        n_controls=len(distances),
        n_same_index=distances.count(0),
        largest_distance=max(distances, default=0),
    )


def _told(section: Section, schema: pa.Schema, rows: pa.Table) -> dict[str, Any]:
    """A section as metadata: its sentences, tables and limits, and the rows that it rests on."""
    shown: dict[str, Any] = {
        "dagster/row_count": rows.num_rows,
        "dagster/column_schema": column_schema(schema),
        "finding": "\n\n".join(section.paragraphs),
        "figures": dg.MetadataValue.md("\n\n".join(_markdown(table) for table in section.tables)),
        "limits": dg.MetadataValue.md("\n".join(f"- {limit}" for limit in section.limits)),
    }
    if "device" in rows.column_names:
        shown["device"] = ", ".join(sorted(set(rows["device"].to_pylist())))
    return shown


def _markdown(table: SectionTable) -> str:
    lines = [[column.title for column in table.columns], ["---"] * len(table.columns), *table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
