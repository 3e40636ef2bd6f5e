"""Phase 1's scan: the assets `logit_lens`, `component_importance` and `selected_components`."""

from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from backtracking_assets.analysis.component_selection import select_components
from backtracking_assets.analysis.component_summaries import SCAN_VERSION, refuse_worthless_scan, summarize_scan
from backtracking_assets.analysis.continuation_positions import Chosen
from backtracking_assets.analysis.lens_summaries import refuse_worthless_lens, summarize_lens
from backtracking_assets.assets.checks import check_results, fail_on_errors
from backtracking_assets.assets.failures import readable_failures
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.scan_checks import LENS_CHECKS, SCAN_CHECKS, SELECTION_CHECKS
from backtracking_assets.assets.scan_checks import lens_checks as checks_of_lens
from backtracking_assets.assets.scan_checks import scan_checks as checks_of_scan
from backtracking_assets.assets.scan_checks import selection_checks as checks_of_selection
from backtracking_assets.assets.scan_measuring import measure_lens, measure_scan
from backtracking_assets.assets.scan_metadata import lens_metadata, scan_metadata, selection_metadata
from backtracking_assets.assets.scanning import (
    HeldOut,
    chosen_positions,
    held_out_baseline,
    scan_digest,
    selection_digest,
    selection_document,
    selection_file,
    settings_of,
    stored_scan,
)
from backtracking_assets.errors import StorageError
from backtracking_assets.execution.gpu_executor import GPU_POOL
from backtracking_assets.experiment import Experiment
from backtracking_assets.storage import queries
from backtracking_assets.storage.durable import write_text_durably
from backtracking_assets.storage.scan_commits import write_lens, write_scan, write_selection


def scan_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """The three assets, upstream first, where the experiment file has a section for them."""
    if experiment.scan is None:
        return []
    return [_logit_lens(experiment), _component_importance(experiment), _selected_components(experiment)]


def _logit_lens(experiment: Experiment) -> dg.AssetsDefinition:
    @dg.asset(
        key=[experiment.name, "logit_lens"],
        deps=[[experiment.name, name] for name in ("variant_detections", "model_checkpoint")],
        group_name=f"{experiment.name}_phase1",
        code_version=SCAN_VERSION,
        check_specs=_specs(experiment, "logit_lens", LENS_CHECKS),
        description="At the position that predicts the onset token: its logit, log-probability and rank after every "
        "layer, for strict events of held-out problems against matched positions.",
        kinds={"pytorch", "duckdb"},
        pool=GPU_POOL,
    )
    @readable_failures
    def logit_lens(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        opened, held, chosen = _at_work(experiment)
        run_id = context.run.run_id
        positions, now = measure_lens(opened, held, chosen.positions, run_id=run_id, log=context.log.info)
        refuse_worthless_lens(positions)
        outcomes = checks_of_lens(positions, chosen, settings_of(experiment))
        fail_on_errors("The logit lens", outcomes)
        summaries = summarize_lens(positions, statistics=experiment.statistics, run_id=run_id)
        write_lens(opened.layout, held.source, positions, summaries)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(scan_digest(opened, held.stored)),
            check_results=check_results(outcomes),
            metadata={"measured_now": now, **_counts(held, chosen), **lens_metadata(opened)},
        )

    return logit_lens


def _component_importance(experiment: Experiment) -> dg.AssetsDefinition:
    @dg.asset(
        key=[experiment.name, "component_importance"],
        deps=[[experiment.name, name] for name in ("variant_detections", "model_checkpoint")],
        group_name=f"{experiment.name}_phase1",
        code_version=SCAN_VERSION,
        check_specs=_specs(experiment, "component_importance", SCAN_CHECKS),
        description="Every layer's attention and MLP scaled to 0, and moved to its mean, at the one position before "
        "the onset of strict events of held-out problems, and at matched positions: what the next token's distribution "
        "loses.",
        kinds={"pytorch", "duckdb"},
        pool=GPU_POOL,
    )
    @readable_failures
    def component_importance(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        opened, held, chosen = _at_work(experiment)
        run_id = context.run.run_id
        positions, effects, now = measure_scan(opened, held, chosen.positions, run_id=run_id, log=context.log.info)
        refuse_worthless_scan(positions, effects)
        outcomes = checks_of_scan(positions, effects, chosen, settings_of(experiment))
        fail_on_errors("The component scan", outcomes)
        summaries = summarize_scan(positions, effects, statistics=experiment.statistics, run_id=run_id)
        write_scan(opened.layout, held.source, positions, effects, summaries)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(scan_digest(opened, held.stored)),
            check_results=check_results(outcomes),
            metadata={"measured_now": now, **_counts(held, chosen), **scan_metadata(opened)},
        )

    return component_importance


def _selected_components(experiment: Experiment) -> dg.AssetsDefinition:
    @dg.asset(
        key=[experiment.name, "selected_components"],
        deps=[[experiment.name, "component_importance"]],
        group_name=f"{experiment.name}_phase1",
        code_version=SCAN_VERSION,
        check_specs=_specs(experiment, "selected_components", SELECTION_CHECKS),
        description="The components of each kind whose loss specifically takes the trigger's probability, with the "
        "share of bootstrap resamples of problems in which each is selected.",
        kinds={"duckdb", "json"},
    )
    @readable_failures
    def selected_components(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        opened = OpenExperiment(experiment)
        opened.layout.prepare()
        settings, held = settings_of(experiment), held_out_baseline(opened)
        if stored_scan(opened) is None:
            raise StorageError(
                "There is nothing to select from: the component scan is not there, or was computed from something else "
                "than the experiment asks for now; materialize component_importance first."
            )
        by = selection_digest(opened, held.stored)
        selection = select_components(
            queries.scan_table(opened.layout, "scan_positions"),
            queries.scan_table(opened.layout, "component_effects"),
            settings,
            statistics=experiment.statistics,
            selection_digest=by,
            run_id=context.run.run_id,
        )
        outcomes = checks_of_selection(selection)
        fail_on_errors("The selection of components", outcomes)
        write_selection(opened.layout, held.source, selection)
        # Written last: a cut in between leaves a file that does not fit the rows, and the next run does both again.
        write_text_durably(selection_file(opened), selection_document(selection))
        return dg.MaterializeResult(
            data_version=dg.DataVersion(by),
            check_results=check_results(outcomes),
            metadata=selection_metadata(opened),
        )

    return selected_components


def _specs(experiment: Experiment, asset: str, checks: Mapping[str, str]) -> list[dg.AssetCheckSpec]:
    key = [experiment.name, asset]
    return [dg.AssetCheckSpec(name, asset=key, description=meaning) for name, meaning in checks.items()]


def _at_work(experiment: Experiment) -> tuple[OpenExperiment, HeldOut, Chosen]:
    opened = OpenExperiment(experiment)
    opened.layout.prepare()
    settings, held = settings_of(experiment), held_out_baseline(opened)
    return opened, held, chosen_positions(held, settings)


def _counts(held: HeldOut, chosen: Chosen) -> dict[str, Any]:
    return {
        "held_out_problems": held.n_problems,
        "completions": held.completions.num_rows,
        "events_found": chosen.n_found,
        "events_at_first_token": chosen.n_at_first_token,
        "events_used": len(chosen.of("event")),
        "problems_of_events": len({position.problem_id for position in chosen.of("event")}),
        "matched_positions": len(chosen.of("control")),
        "completions_without_event": chosen.n_without_event,
    }


METADATA: dict[str, Callable[[OpenExperiment], dict[str, Any]]] = {
    "logit_lens": lens_metadata,
    "component_importance": scan_metadata,
    "selected_components": selection_metadata,
}
"""What Dagster shows of each asset, computed from the store."""
