"""A scan, a truth and a page whose figures are known: eight layers, attention 1 and MLPs 2 and 3 were planted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from backtracking_assets.analysis.planted_truth import PlantedTruth, read_truth
from backtracking_assets.analysis.positive_control import (
    Scores,
    judged_rankings,
    rank_among_draws,
    ranked_components,
)
from backtracking_assets.experiment_sections import Statistics
from backtracking_assets.records import Component
from backtracking_assets.reporting.contents import Provenance, Study
from backtracking_assets.reporting.positive_control_contents import (
    ControlReport,
    ControlResults,
    PutBackRow,
    ScaledSubset,
    SelectedComponents,
)

PLANTED: tuple[tuple[int, Component], ...] = ((1, "attention"), (2, "mlp"), (3, "mlp"))
COMPONENTS: tuple[tuple[int, Component], ...] = tuple(
    (layer, kind) for layer in range(8) for kind in ("attention", "mlp")
)
STATISTICS = Statistics(resamples=500)
MARGIN = 0.02
FIXED = {"control_digest": "d" * 64, "run_id": "run-1"}


def truth_document(**changes: Any) -> dict[str, Any]:
    """A `known_truth.json` in which MLP 3 was planted and does nothing to speak of."""

    def estimate(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.01, "high": value + 0.01}

    def put_back(pairs: tuple[tuple[int, Component], ...], drop: float) -> dict[str, Any]:
        places = [{"component": component, "layer": layer} for layer, component in pairs]
        reaction = {"after_wrong_step": estimate(0.9 - drop), "after_right_step": estimate(0.03)}
        return {"components": places, "reaction": reaction, "drop": estimate(drop)}

    drops = (0.5, 0.2, 0.015)
    document = {
        "probes": 480,
        "planted": [{"component": component, "layer": layer} for layer, component in PLANTED],
        "organism": {"after_wrong_step": estimate(0.9), "after_right_step": estimate(0.02)},
        "put_back_one": [put_back((pair,), drop) for pair, drop in zip(PLANTED, drops, strict=True)],
        "put_back_attention": put_back(PLANTED[:1], 0.5),
        "put_back_mlps": put_back(PLANTED[1:], 0.25),
        "put_back_all": put_back(PLANTED, 0.8),
    }
    return document | changes


def write_truth(folder: Path, **changes: Any) -> Path:
    path = folder / "known_truth.json"
    path.write_text(json.dumps(truth_document(**changes)), encoding="utf-8")
    return path


def scores_with(importance: dict[tuple[int, Component], float], measure: str = "specific_drop") -> Scores:
    """Twelve events of six problems; what is not named has an importance around 0."""
    noise = np.random.default_rng(7).normal(0, 0.05, (12, len(COMPONENTS)))
    means = np.array([importance.get(pair, 0.0) for pair in COMPONENTS])
    return Scores("zero", measure, COMPONENTS, noise + means, tuple(f"p{event // 2}" for event in range(12)))


GOOD = scores_with({(1, "attention"): 2.0, (2, "mlp"): 1.0, (3, "mlp"): 0.5})
BREAKERS = scores_with({(0, "attention"): 9.0, (0, "mlp"): 8.0, (5, "mlp"): 7.0, (1, "attention"): 2.0}, "onset_logit")


def subset(name: str, difference: float, n_planted: int, control_of: str | None = None) -> ScaledSubset:
    ends = (difference - 0.05, difference + 0.05)
    components = ("attention.1",) if n_planted else ("attention.6",)
    return ScaledSubset(name, 0.0, components, n_planted, control_of, difference, *ends, p_holm=0.01)


def results_of(
    truth: PlantedTruth,
    scores: tuple[Scores, ...] = (GOOD, BREAKERS),
    draws: tuple[float, ...] = (-0.02,) * 19,
    one_position: tuple[ScaledSubset, ...] = (subset("planted", -0.6, 1), subset("unplanted", -0.01, 0)),
    name: str = "made",
) -> ControlResults:
    """Results of made scores, with a planted subset that has nineteen draws."""
    judged = judged_rankings(scores, truth, MARGIN, STATISTICS, FIXED)
    ranks = rank_among_draws("planted", 0.0, -0.7, draws, FIXED)
    return ControlResults(
        study=Study(name, f"Study {name}", "Made up.", 0.95, 6, 2, {"sampling": 1}, 10_000),
        tuned_here=name == "made",
        margin=MARGIN,
        probes=truth.probes,
        after_wrong_step=truth.wait_after_wrong_step,
        after_right_step=truth.wait_after_right_step,
        put_back=tuple(
            PutBackRow(f"{component} {layer}", drop.estimate, drop.low, drop.high, 0.4, 0.03, drop.low > MARGIN)
            for drop in truth.one
            for layer, component in drop.components
        ),
        planted=("attention 1", "mlp 2", "mlp 3"),
        causal=("attention 1", "mlp 2"),
        components=ranked_components(scores, truth, MARGIN, FIXED).to_pandas(),
        figures=pa.concat_tables([judged, ranks]).to_pandas(),
        criterion="specific_drop",
        labels={"specific_drop": "specific drop", "onset_logit": "drop of the raw logit"},
        selected=SelectedComponents(("attention 1", "mlp 2"), ("attention 1", "mlp 2")),
        one_position=one_position,
        sweep=(subset("planted", -0.7, 1), *(subset(f"random_{n}", d, 0, "planted") for n, d in enumerate(draws, 1))),
        sweep_measure="Wait after a wrong step",
    )


def report_of(results: ControlResults, other: ControlResults | None = None, absent: str = "") -> ControlReport:
    provenance = Provenance((), (), {"python": "3"}, "abc", "backtracking sweep made", None, None, None)
    return ControlReport(results, other, absent, provenance, "v1")


def read_made_truth(folder: Path) -> PlantedTruth:
    return read_truth(write_truth(folder))
