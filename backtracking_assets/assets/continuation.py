"""The asset `continuation_ablation`: what scaling does right where the baseline began to backtrack."""

from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from backtracking_assets.analysis.continuation_positions import CONTINUATION_VERSION, Chosen
from backtracking_assets.analysis.continuation_summaries import refuse_worthless, summarize
from backtracking_assets.assets.checks import check_results, fail_on_errors
from backtracking_assets.assets.continuing import (
    chosen_positions,
    continuation_digest,
    measure_positions,
    required_baseline,
    settings_of,
)
from backtracking_assets.assets.failures import readable_failures
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.sweep_metadata import continuation_metadata
from backtracking_assets.execution.gpu_executor import GPU_POOL
from backtracking_assets.experiment import Experiment
from backtracking_assets.plan import Continuation
from backtracking_assets.records import UNSCALED
from backtracking_assets.reporting.contents import CheckOutcome
from backtracking_assets.storage.continuation_commits import write_continuation

CHECKS = {
    "probabilities_vary": "Values are finite, differ between events, and change under some intervention.",
    "drawn_as_generated": "Without intervention, the baseline's own noise draws the baseline's tokens: the positions "
    "are where they are taken to be.",
    "enough_positions": "As many events and matched positions as the experiment file asks for.",
}
"""Names and meanings of the checks; the first two fail the run before anything is stored."""

_LEAST_DRAWN_ALIKE = 0.9
"""Other batches give other last bits, so that a draw that was close may differ; at a wrong position most do."""


def continuation_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """The asset, where the experiment file has a section for it."""
    return [] if experiment.continuation is None else [_continuation_ablation(experiment)]


def _continuation_ablation(experiment: Experiment) -> dg.AssetsDefinition:
    key = [experiment.name, "continuation_ablation"]

    @dg.asset(
        key=key,
        deps=[[experiment.name, "detections"], [experiment.name, "model_checkpoint"]],
        group_name=f"{experiment.name}_phase2",
        description="At the baseline's strict events and at matched positions: the next token's distribution while the "
        "position before is scaled, and how often the event comes again by sampling.",
        kinds={"pytorch", "duckdb"},
        code_version=CONTINUATION_VERSION,
        pool=GPU_POOL,
        check_specs=[dg.AssetCheckSpec(name, asset=key, description=meaning) for name, meaning in CHECKS.items()],
    )
    @readable_failures
    def continuation_ablation(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        opened, run_id = OpenExperiment(experiment), context.run.run_id
        opened.layout.prepare()
        settings, baseline = settings_of(experiment), required_baseline(opened)
        chosen = chosen_positions(opened, baseline)
        measured = measure_positions(opened, baseline, chosen, run_id=run_id, log=context.log.info)
        refuse_worthless(measured.positions)
        outcomes = continuation_checks(measured.positions, chosen, settings)
        fail_on_errors("The continuation ablation", outcomes)
        summaries = summarize(
            measured.positions,
            measured.samples,
            problem_set_digest=baseline.problem_set_digest,
            rules_digest=opened.rules_digest,
            statistics=experiment.statistics,
            run_id=run_id,
        )
        write_continuation(opened.layout, measured.positions, measured.samples, summaries)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(continuation_digest(opened, baseline)),
            check_results=check_results(outcomes),
            metadata={
                "measured_now": measured.measured_now,
                **continuation_metadata(opened),
                "trigger_tokens": dg.MetadataValue.json({str(k): text for k, text in measured.trigger_tokens.items()}),
                **_counts(chosen),
            },
        )

    return continuation_ablation


def _counts(chosen: Chosen) -> dict[str, Any]:
    return {
        "events_found": chosen.n_found,
        "events_at_first_token": chosen.n_at_first_token,
        "events_used": len(chosen.of("event")),
        "problems_of_events": len({position.problem_id for position in chosen.of("event")}),
        "matched_positions": len(chosen.of("control")),
        "completions_without_event": chosen.n_without_event,
    }


def continuation_checks(positions: pa.Table, chosen: Chosen, settings: Continuation) -> list[CheckOutcome]:
    """Checks of positions, given as rows of `records.CONTINUATION_POSITIONS` that `refuse_worthless` lets pass."""
    unscaled = positions.filter(pc.field("layer_subset") == UNSCALED.layer_subset)
    n, alike = unscaled.num_rows, sum(unscaled["same_draw"].to_pylist())
    probabilities = unscaled.filter(pc.field("kind") == "event")["onset_probability"].to_pylist()
    events, controls = len(chosen.of("event")), len(chosen.of("control"))
    return [
        CheckOutcome(
            "probabilities_vary",
            True,
            "error",
            f"The onset token's probability lies between {min(probabilities):.3g} and {max(probabilities):.3g} at "
            f"{len(probabilities)} events without intervention.",
        ),
        CheckOutcome(
            "drawn_as_generated",
            alike >= _LEAST_DRAWN_ALIKE * n,
            "error",
            f"At {alike} of {n} positions the baseline's noise draws the baseline's token; an error stands below "
            f"{_LEAST_DRAWN_ALIKE:.0%}.",
        ),
        CheckOutcome(
            "enough_positions",
            events == settings.events and controls == events,
            "warning",
            f"{events} of {settings.events} events that were asked for, {controls} of them with a matched position.",
        ),
    ]
