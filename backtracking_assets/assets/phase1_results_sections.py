"""The sections on prompt variants, conditions and backtracking against accuracy, filled from the store."""

import pyarrow as pa

from backtracking_assets.assets.contents import primary_measure
from backtracking_assets.assets.open_experiment import OpenExperiment, component_names
from backtracking_assets.assets.phase1_results import (
    COMPARE_CONDITIONS,
    FORMATTING_SWEEP,
    METRICS_V2,
    Result,
    compared_cells,
    current_rows,
    result_version,
)
from backtracking_assets.assets.phase1_sections import SectionSource
from backtracking_assets.assets.stored_variants import variants_of
from backtracking_assets.errors import StorageError
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.reporting.backtracking_accuracy import BacktrackingResults, backtracking_section
from backtracking_assets.reporting.formats import format_components
from backtracking_assets.reporting.formatting import (
    ConditionResults,
    FormattingResults,
    conditions_section,
    formatting_section,
)
from backtracking_assets.reporting.measured import FALLBACK_MEASURE

FORMATTING_TITLE = "What the form of the prompt does"
CONDITIONS_TITLE = "What the targeted subset does beside random ones"
BACKTRACKING_TITLE = "Backtracking against accuracy within the baseline"


def formatting_results(opened: OpenExperiment) -> FormattingResults:
    """The prompt variants side by side.

    Raises:
        StorageError: they are not stored, or computed from something else than there is now.
    """
    rows = _required(FORMATTING_SWEEP, opened, "formatting_sweep").to_pandas()
    experiment = opened.experiment
    names = tuple(variant.name for variant in variants_of(experiment))
    fingerprints = dict(zip(rows["variant"], rows["fingerprint"], strict=True))
    return FormattingResults(
        rows=rows,
        variants=names,
        primary=primary_measure(experiment) or FALLBACK_MEASURE,
        confidence=experiment.statistics.confidence,
        identical=tuple(name for name in names[1:] if fingerprints[name] == fingerprints[names[0]]),
    )


def condition_results(opened: OpenExperiment) -> ConditionResults:
    """Baseline, targeted subset and random controls side by side; raises as `formatting_results`."""
    rows = _required(COMPARE_CONDITIONS, opened, "compare_conditions").to_pandas()
    experiment, cells = opened.experiment, compared_cells(opened)
    labels: dict[tuple[str, float], str] = {}
    components: list[tuple[str, str]] = []
    for stored, role in cells.present:
        name = "baseline" if role == "baseline" else str(stored.cell)
        labels[stored.cell.layer_subset, stored.cell.scale] = name
        if role != "baseline":
            components.append((name, format_components(component_names(opened, stored.cell.layer_subset))))
    targeted = [
        str(cell)
        for cell in experiment.compared_cells()
        if cell.scale != BASELINE_SCALE and experiment.control_of(cell.layer_subset) is None
    ]
    return ConditionResults(
        rows=rows,
        labels=labels,
        targeted=targeted[0],
        missing=cells.missing,
        primary=primary_measure(experiment) or FALLBACK_MEASURE,
        confidence=experiment.statistics.confidence,
        components=tuple(components),
    )


def backtracking_results(opened: OpenExperiment) -> BacktrackingResults:
    """Backtracking against accuracy in the baseline; raises as `formatting_results`."""
    rows = _required(METRICS_V2, opened, "metrics_v2").to_pandas()
    names = tuple(variant.name for variant in variants_of(opened.experiment))
    return BacktrackingResults(rows, names, opened.experiment.statistics.confidence)


FORMATTING_SOURCE = SectionSource(
    "formatting_sweep",
    "phase1_formatting_sweep",
    FORMATTING_TITLE,
    lambda opened: result_version(FORMATTING_SWEEP, opened),
    lambda opened: formatting_section(formatting_results(opened), FORMATTING_TITLE),
)
CONDITIONS_SOURCE = SectionSource(
    "compare_conditions",
    "phase1_compare_conditions",
    CONDITIONS_TITLE,
    lambda opened: result_version(COMPARE_CONDITIONS, opened),
    lambda opened: conditions_section(condition_results(opened), CONDITIONS_TITLE),
)
BACKTRACKING_SOURCE = SectionSource(
    "metrics_v2",
    "metrics_v2",
    BACKTRACKING_TITLE,
    lambda opened: result_version(METRICS_V2, opened),
    lambda opened: backtracking_section(backtracking_results(opened), BACKTRACKING_TITLE),
)
RESULT_SOURCES = {source.asset: source for source in (FORMATTING_SOURCE, CONDITIONS_SOURCE, BACKTRACKING_SOURCE)}
"""By the name of the asset."""


def _required(result: Result, opened: OpenExperiment, asset: str) -> pa.Table:
    rows = current_rows(result, opened)
    if rows is None:
        raise StorageError(f"{asset} is not there, or older than its inputs; materialize it first.")
    return rows
