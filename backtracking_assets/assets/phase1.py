"""Assets of phase 1 as a whole: prompt variants, conditions, backtracking against accuracy, and the page."""

from collections.abc import Callable

import dagster as dg
import pyarrow as pa
from matplotlib.figure import Figure

from backtracking_assets.analysis.backtracking_accuracy import BACKTRACKING_VERSION
from backtracking_assets.analysis.condition_comparison import CONDITIONS_VERSION
from backtracking_assets.analysis.formatting import FORMATTING_VERSION
from backtracking_assets.assets.checks import check_results
from backtracking_assets.assets.failures import readable_failures
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.phase1_contents import (
    PAGE_VERSION,
    section_sources,
    write_phase1_report,
)
from backtracking_assets.assets.phase1_metadata import phase1_report_metadata, section_metadata
from backtracking_assets.assets.phase1_results import (
    COMPARE_CONDITIONS,
    FORMATTING_SWEEP,
    METRICS_V2,
    Result,
    compared_cells,
    result_version,
    store_result,
)
from backtracking_assets.assets.phase1_results_sections import (
    BACKTRACKING_SOURCE,
    CONDITIONS_SOURCE,
    FORMATTING_SOURCE,
    backtracking_results,
    condition_results,
    formatting_results,
)
from backtracking_assets.assets.phase1_sections import SectionSource
from backtracking_assets.errors import StorageError
from backtracking_assets.experiment import Experiment
from backtracking_assets.reporting.backtracking_accuracy import backtracking_figure
from backtracking_assets.reporting.contents import CheckOutcome
from backtracking_assets.reporting.formats import join_names
from backtracking_assets.reporting.formatting import conditions_figure, formatting_figure

FIGURES: dict[str, Callable[[OpenExperiment], Figure]] = {
    "formatting_sweep": lambda opened: formatting_figure(formatting_results(opened)),
    "metrics_v2": lambda opened: backtracking_figure(backtracking_results(opened)),
    "compare_conditions": lambda opened: conditions_figure(condition_results(opened)),
}
"""The figure of each result, by the name of its asset."""

_Checks = Callable[[OpenExperiment, pa.Table], list[CheckOutcome]]


def phase1_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """The assets, where the experiment file has a section for phase 1; upstream first."""
    if experiment.phase1 is None:
        return []
    return [
        _result_asset(
            experiment,
            FORMATTING_SWEEP,
            FORMATTING_SOURCE,
            "variant_metrics",
            FORMATTING_VERSION,
            "Every measure of each prompt variant, and its paired difference to the sweep's own.",
            "variants_differ",
            "Some measure differs between variants of different text; else the run fails before anything is stored.",
            _variants_differ,
        ),
        _result_asset(
            experiment,
            METRICS_V2,
            BACKTRACKING_SOURCE,
            "variant_metrics",
            BACKTRACKING_VERSION,
            "Accuracy with and without a strict trigger in the baseline of each prompt variant, never pooled.",
            "both_kinds",
            "Every variant has completions with and without a strict trigger, so that they can be compared.",
            _both_kinds,
        ),
        _result_asset(
            experiment,
            COMPARE_CONDITIONS,
            CONDITIONS_SOURCE,
            "metrics",
            CONDITIONS_VERSION,
            "Baseline, targeted subset and its random controls side by side, paired with the baseline.",
            "conditions_there",
            "Every condition that is planned is there.",
            _conditions_there,
        ),
        _phase1_report(experiment),
    ]


def _result_asset(
    experiment: Experiment,
    result: Result,
    source: SectionSource,
    upstream: str,
    code_version: str,
    description: str,
    check: str,
    meaning: str,
    outcomes_of: _Checks,
) -> dg.AssetsDefinition:
    key = [experiment.name, source.asset]

    @dg.asset(
        key=key,
        deps=[[experiment.name, upstream]],
        group_name=f"{experiment.name}_phase1",
        description=description,
        kinds={"duckdb"},
        code_version=code_version,
        check_specs=[dg.AssetCheckSpec(check, asset=key, description=meaning)],
    )
    @readable_failures
    def computed(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        opened = OpenExperiment(experiment)
        opened.layout.prepare()
        table = store_result(result, opened, context.run.run_id)
        version = result_version(result, opened)
        if version is None:
            raise StorageError(f"What {source.asset} is computed from has changed meanwhile; run it again.")
        return dg.MaterializeResult(
            data_version=dg.DataVersion(version),
            check_results=check_results(outcomes_of(opened, table)),
            metadata=section_metadata(source.build(opened), FIGURES[source.asset](opened), table),
        )

    return computed


def _phase1_report(experiment: Experiment) -> dg.AssetsDefinition:
    sources = section_sources(experiment)

    @dg.asset(
        key=[experiment.name, "phase1_report"],
        deps=[[experiment.name, source.asset] for source in sources],
        group_name=f"{experiment.name}_phase1",
        description="One HTML page for phase 1. Says what is not measured yet.",
        kinds={"html"},
        code_version=PAGE_VERSION,
    )
    @readable_failures
    def phase1_report(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        opened = OpenExperiment(experiment)
        opened.layout.prepare()
        report, path = write_phase1_report(opened)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(report.version), metadata=phase1_report_metadata(report, path)
        )

    return phase1_report


def _variants_differ(opened: OpenExperiment, table: pa.Table) -> list[CheckOutcome]:
    frame = table.to_pandas()
    rates = frame[frame["metric"] == "strict_rate"]["estimate"]
    said = f"The strict rate lies between {rates.min():.3f} and {rates.max():.3f} in {len(rates)} variants."
    return [CheckOutcome("variants_differ", True, "error", said)]


def _both_kinds(opened: OpenExperiment, table: pa.Table) -> list[CheckOutcome]:
    rows = table.to_pylist()
    lacking = sorted({row["variant"] for row in rows if row["figure"] == "difference" and row["estimate"] is None})
    said = (
        f"Nothing to compare in {join_names(lacking)}." if lacking else "Every variant has completions of both kinds."
    )
    return [CheckOutcome("both_kinds", not lacking, "warning", said)]


def _conditions_there(opened: OpenExperiment, table: pa.Table) -> list[CheckOutcome]:
    missing = compared_cells(opened).missing
    said = f"Missing: {join_names(missing)}." if missing else "Every planned condition is there."
    return [CheckOutcome("conditions_there", not missing, "warning", said)]
