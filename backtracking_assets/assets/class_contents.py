"""What reports say of the rules behind the classes: their golden scores, and their agreement with the exact classes."""

from collections import Counter

from backtracking_assets.analysis.backtracking_classes import classify_text
from backtracking_assets.analysis.detection import DETECTION_VERSION
from backtracking_assets.analysis.golden_set import read_scores
from backtracking_assets.analysis.triggers import find_events
from backtracking_assets.assets.stored_cells import StoredCell
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment import Experiment
from backtracking_assets.reporting.contents import ClassRules


def class_rules(experiment: Experiment, baseline: StoredCell | None) -> ClassRules:
    """The rules' golden scores, and on the organism their agreement with the exact classes of the baseline."""
    exact = experiment.detection.steps is not None
    agreement = _agreement(baseline) if exact and baseline is not None else ()
    try:
        scores = read_scores()
    except BacktrackingError as error:
        return ClassRules(exact, None, str(error), agreement)
    if scores["detection_version"] != DETECTION_VERSION:
        because = f"They were scored at detection version {scores['detection_version']}, this is {DETECTION_VERSION}."
        return ClassRules(exact, None, because, agreement)
    return ClassRules(exact, scores["splits"]["held_out"], "", agreement)


def _agreement(baseline: StoredCell) -> tuple[tuple[str, str, int], ...]:
    """(exact class, class by the text rules, completions) of a cell."""
    rules = baseline.opened.experiment.detection
    columns = ["problem_id", "sample_id", "text", "finish_reason"]
    texts = {(row["problem_id"], row["sample_id"]): row for row in baseline.completions.select(columns).to_pylist()}
    counts: Counter[tuple[str, str]] = Counter()
    for row in baseline.detections.to_pylist():
        completion = texts[row["problem_id"], row["sample_id"]]
        found = classify_text(
            completion["text"],
            find_events(completion["text"], rules),
            degenerate=row["degenerate"],
            cut_off=completion["finish_reason"] == "length",
        )
        counts[row["completion_class"], found.completion] += 1
    return tuple((exact, found, n) for (exact, found), n in sorted(counts.items()))
