"""Filling the positive control's page from the stores of this organism and of the one that the method is judged on."""

from collections.abc import Iterable

from backtracking_assets.analysis.planted_truth import Drop, PlantedTruth
from backtracking_assets.assets.continuing import stored_summaries
from backtracking_assets.assets.open_experiment import OpenExperiment, component_names
from backtracking_assets.assets.positive_control_inputs import (
    StoredControl,
    control_page_version,
    judged_on,
    known_truth,
    settings_of,
    stored_control,
    sweep_differences,
    sweep_measure,
)
from backtracking_assets.assets.provenance import provenance
from backtracking_assets.assets.scan_scores import CRITERION, LABELS, scanned_completions, selected_names
from backtracking_assets.errors import BacktrackingError, StorageError
from backtracking_assets.experiment_file import experiment_names
from backtracking_assets.measures import MEASURES
from backtracking_assets.records import UNSCALED, Component
from backtracking_assets.reporting.contents import study_of
from backtracking_assets.reporting.positive_control_contents import (
    ControlReport,
    ControlResults,
    PutBackRow,
    ScaledSubset,
    SelectedComponents,
)
from backtracking_assets.storage import queries

JOB = "positive_control"


def control_report(opened: OpenExperiment, run_id: str) -> ControlReport:
    """Contents of the page.

    Raises:
        StorageError: the figures are not stored, or are of something else than the experiment file asks for now.
    """
    stored = stored_control(opened)
    if stored is None:
        raise StorageError("The positive control is not there; materialize it first.")
    other, absent = _other(opened)
    return ControlReport(
        results=_results(opened, stored),
        other=other,
        other_absent_because=absent,
        provenance=provenance(
            opened.experiment,
            scanned_completions(opened),
            run_id,
            queries.chunk_sizes(opened.layout),
            f"--job {JOB}",
        ),
        version=control_page_version(opened),
    )


def _other(opened: OpenExperiment) -> tuple[ControlResults | None, str]:
    """Results of the organism that the method is judged on, or why they are not shown."""
    other = judged_on(opened.experiment)
    if other is None:
        return None, ""
    name = other.experiment.name
    shown = name if name in experiment_names() else str(other.experiment.source)
    again = opened.experiment.name if opened.experiment.name in experiment_names() else str(opened.experiment.source)
    command = f"backtracking sweep {shown} --job full_study, then backtracking sweep {again} --job {JOB}"
    try:
        stored = stored_control(other)
    except BacktrackingError as error:
        return None, f"{name}, on which the method is judged, cannot be shown: {error}"
    if stored is None:
        return None, f"{name}, on which the method is judged, is not measured yet; {command} shows it."
    return _results(other, stored), ""


def _results(opened: OpenExperiment, stored: StoredControl) -> ControlResults:
    experiment = opened.experiment
    settings, truth = settings_of(experiment), known_truth(opened)
    planted, causal = truth.planted, truth.causal(settings.margin)
    selected = selected_names(opened)
    return ControlResults(
        study=study_of(experiment),
        tuned_here=settings.tuned_here,
        margin=settings.margin,
        probes=truth.probes,
        after_wrong_step=truth.wait_after_wrong_step,
        after_right_step=truth.wait_after_right_step,
        put_back=tuple(_put_back(truth, settings.margin)),
        planted=_names(planted),
        causal=_names(causal),
        components=stored.components.to_pandas(),
        figures=stored.figures.to_pandas(),
        criterion=CRITERION,
        labels=dict(LABELS),
        selected=None
        if selected is None
        else SelectedComponents(
            tuple(_name(*pair) for pair in selected), tuple(_name(*pair) for pair in selected if pair in planted)
        ),
        one_position=tuple(_one_position(opened, truth)),
        sweep=tuple(_sweep(opened, truth)),
        sweep_measure=MEASURES[sweep_measure(experiment)].label,
    )


def _put_back(truth: PlantedTruth, margin: float) -> Iterable[PutBackRow]:
    for drop in truth.one:
        yield _row(_names(drop.components)[0], drop, drop.low > margin)
    for name, drop in truth.together:
        yield _row(name, drop, None)


def _row(name: str, drop: Drop, causal: bool | None) -> PutBackRow:
    return PutBackRow(
        name=name,
        drop=drop.estimate,
        low=drop.low,
        high=drop.high,
        after_wrong_step=drop.wait_after_wrong_step,
        after_right_step=drop.wait_after_right_step,
        causal=causal,
    )


def _one_position(opened: OpenExperiment, truth: PlantedTruth) -> Iterable[ScaledSubset]:
    """Every intervention of the continuation ablation at the events, by the onset token's probability."""
    summaries = stored_summaries(opened)
    for row in () if summaries is None else summaries.to_pylist():
        if (
            row["kind"] == "event"
            and row["measure"] == "onset_probability"
            and row["layer_subset"] != UNSCALED.layer_subset
        ):
            ends = (row["difference"], row["difference_low"], row["difference_high"])
            yield _scaled(opened, truth, row["layer_subset"], row["scale"], ends, row["p_holm"])


def _sweep(opened: OpenExperiment, truth: PlantedTruth) -> Iterable[ScaledSubset]:
    for name, row in sweep_differences(opened).items():
        if opened.waits_for(name) is None and opened.composition(name).components:  # not the odds of trigger tokens
            yield _scaled(
                opened, truth, name, row["scale"], (row["difference"], row["low"], row["high"]), row["p_holm"]
            )


def _scaled(
    opened: OpenExperiment,
    truth: PlantedTruth,
    name: str,
    scale: float,
    ends: tuple[float, float | None, float | None],
    p_holm: float | None,
) -> ScaledSubset:
    experiment = opened.experiment
    components = opened.composition(name).components
    return ScaledSubset(
        name=name,
        scale=scale,
        components=tuple(component_names(opened, name)),
        n_planted=sum(pair in truth.planted for pair in components),
        control_of=experiment.control_of(name),
        difference=ends[0],
        low=ends[1],
        high=ends[2],
        p_holm=p_holm,
    )


def _names(pairs: Iterable[tuple[int, Component]]) -> tuple[str, ...]:
    """Such as `attention 15`: attention before MLPs, then by layer."""
    return tuple(_name(layer, component) for layer, component in sorted(pairs, key=lambda pair: (pair[1], pair[0])))


def _name(layer: int, component: Component) -> str:
    return f"{component} {layer}"
