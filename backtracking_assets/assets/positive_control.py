"""The asset `positive_control`: the method held against a known truth."""

from typing import Any

import dagster as dg
import pyarrow as pa

from backtracking_assets.analysis.positive_control import (
    POSITIVE_CONTROL_VERSION,
    judged_rankings,
    rank_among_draws,
    ranked_components,
    refuse_unfit,
)
from backtracking_assets.assets.checks import check_results
from backtracking_assets.assets.failures import readable_failures
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.page_files import stamped
from backtracking_assets.assets.positive_control_contents import control_report
from backtracking_assets.assets.positive_control_inputs import (
    control_digest,
    control_page_path,
    known_truth,
    required_scores,
    settings_of,
    sweep_differences,
)
from backtracking_assets.assets.presentation import column_schema, png_figure
from backtracking_assets.assets.scan_scores import scan_scores
from backtracking_assets.experiment import Experiment
from backtracking_assets.positive_control_records import POSITIVE_CONTROL_FIGURES
from backtracking_assets.reporting.contents import CheckOutcome
from backtracking_assets.reporting.positive_control import answers, render_control_report
from backtracking_assets.reporting.positive_control_contents import ControlReport
from backtracking_assets.reporting.positive_control_figures import importance_figure
from backtracking_assets.reporting.positive_control_verdict import ways
from backtracking_assets.reporting.style import to_png
from backtracking_assets.storage.durable import write_text_durably
from backtracking_assets.storage.positive_control_commits import write_positive_control

CHECKS = {
    "scan_finds_planted": "The scan's ranking by the study's criterion finds the causal components.",
    "one_position_finds_planted": "Scaling planted components right before an event lowers the onset's probability "
    "most.",
    "sweep_finds_planted": "Planted subsets stand in front of their random draws.",
}
"""Names and meanings of the checks; they warn: a method that fails its positive control is a result, not a fault."""


def positive_control_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """The asset, where the experiment file has a section for it."""
    return [] if experiment.positive_control is None else [_positive_control(experiment)]


def _positive_control(experiment: Experiment) -> dg.AssetsDefinition:
    key = [experiment.name, "positive_control"]
    shown = ["component_importance", "selected_components", "subset_sweep", "model_checkpoint"]
    if experiment.continuation is not None:
        shown.append("continuation_ablation")

    @dg.asset(
        key=key,
        deps=[[experiment.name, name] for name in shown],
        group_name=f"{experiment.name}_positive_control",
        description="Whether the scan, scaling at one position and the sweep find the components that were planted, "
        "whose truth is known by putting them back.",
        kinds={"duckdb", "html"},
        code_version=POSITIVE_CONTROL_VERSION,
        check_specs=[dg.AssetCheckSpec(name, asset=key, description=meaning) for name, meaning in CHECKS.items()],
    )
    @readable_failures
    def positive_control(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        opened, run_id = OpenExperiment(experiment), context.run.run_id
        opened.layout.prepare()
        digest = compute_positive_control(opened, run_id)
        report = write_control_report(opened, run_id)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(digest),
            check_results=check_results(control_checks(report)),
            metadata=control_metadata(opened, report),
        )

    return positive_control


def compute_positive_control(opened: OpenExperiment, run_id: str) -> str:
    """Hold the stored scan and sweep against the truth, and store what comes out; the digest of what it is made from.

    Raises:
        BacktrackingError: there is no scan, it is unfit, or the truth is missing or about other weights.
    """
    experiment = opened.experiment
    settings, truth = settings_of(experiment), known_truth(opened)
    scores = required_scores(scan_scores(opened))
    refuse_unfit(scores, truth)
    computed_from = control_digest(opened, truth)
    fixed = {"control_digest": computed_from, "run_id": run_id}
    components = ranked_components(scores, truth, settings.margin, fixed)
    figures = judged_rankings(scores, truth, settings.margin, experiment.statistics, fixed)
    write_positive_control(opened.layout, components, pa.concat_tables([figures, *_draw_ranks(opened, fixed)]))
    return computed_from


def _draw_ranks(opened: OpenExperiment, fixed: dict[str, Any]) -> list[pa.Table]:
    """The rank of each targeted subset among its random draws, where it and all of them are compared."""
    found, experiment = sweep_differences(opened), opened.experiment
    tables = []
    for control in experiment.controls.random:
        names = [control.name(draw) for draw in range(1, control.draws + 1)]
        if control.of in found and all(name in found for name in names):
            draws = [found[name]["difference"] for name in names]
            own = found[control.of]
            tables.append(rank_among_draws(control.of, own["scale"], own["difference"], draws, fixed))
    return tables


def write_control_report(opened: OpenExperiment, run_id: str) -> ControlReport:
    """Write the page; what it shows.

    Raises:
        StorageError: the figures are not stored, or the page cannot be written.
    """
    report = control_report(opened, run_id)
    page = stamped(render_control_report(report), report.version)
    write_text_durably(control_page_path(opened), page, "page")
    return report


def control_checks(report: ControlReport) -> list[CheckOutcome]:
    """An outcome for each of the ways that was measured; one that was not has passed nothing and says so."""
    return [
        CheckOutcome(name, way.found is True, "warning", way.sentence)
        for name, way in zip(CHECKS, ways(report.results), strict=True)
    ]


def control_metadata(opened: OpenExperiment, report: ControlReport) -> dict[str, Any]:
    """What Dagster shows of the asset."""
    return {
        "dagster/row_count": len(report.results.figures),
        "dagster/column_schema": column_schema(POSITIVE_CONTROL_FIGURES),
        "answer": dg.MetadataValue.md("\n\n".join(answers(report))),
        "planted": ", ".join(report.results.planted),
        "causal": ", ".join(report.results.causal),
        "report": dg.MetadataValue.path(str(control_page_path(opened))),
        "figure": png_figure(to_png(importance_figure(report.results), 96), "Importance of every component"),
    }
