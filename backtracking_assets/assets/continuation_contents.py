"""Filling the sweep page's section on the continuation ablation from the store."""

from backtracking_assets.assets.continuing import known_cells, required_baseline, settings_of, stored_summaries
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.experiment_file import experiment_names
from backtracking_assets.records import UNSCALED
from backtracking_assets.reporting.contents import ContinuationResults, ContinuationSection
from backtracking_assets.storage import queries


def continuation_report(opened: OpenExperiment) -> ContinuationSection:
    """The section, or why there is none: results of another baseline, list or statistics are not shown."""
    experiment = opened.experiment
    if experiment.continuation is None:
        return ContinuationSection(None, "The experiment file has no section continuation.")
    summaries = stored_summaries(opened)
    if summaries is None:
        name = experiment.name if experiment.name in experiment_names() else str(experiment.source)
        return ContinuationSection(
            None,
            "It is not computed from the baseline and the experiment file as they are now; "
            f"`backtracking sweep {name} --job phase2_continuation_ablation` does it.",
        )
    baseline, settings = required_baseline(opened), settings_of(experiment)
    onsets = baseline.detections["first_strict_token"].drop_null().to_pylist()
    rows = queries.continuation_positions(opened.layout).to_pylist()
    unscaled = [row for row in rows if row["layer_subset"] == UNSCALED.layer_subset]
    events = {(row["problem_id"], row["sample_id"]): row for row in unscaled if row["kind"] == "event"}
    controls = [row for row in unscaled if row["kind"] == "control"]
    distances = [
        abs(row["token_index"] - events[row["event_problem_id"], row["event_sample_id"]]["token_index"])
        for row in controls
    ]
    return ContinuationSection(
        ContinuationResults(
            cells=known_cells(opened),
            summaries=summaries.to_pandas(),
            confidence=experiment.statistics.confidence,
            temperature=experiment.sampling.temperature,
            top_p=experiment.sampling.top_p,
            continuations=settings.continuations,
            max_new_tokens=settings.max_new_tokens,
            n_found=len(onsets),
            n_at_first_token=onsets.count(0),
            n_wanted=settings.events,
            n_events=len(events),
            n_event_problems=len({problem_id for problem_id, _ in events}),
            n_controls=len(controls),
            n_control_problems=len({row["problem_id"] for row in controls}),
            n_same_index=distances.count(0),
            largest_distance=max(distances, default=0),
        )
    )
