"""What is left to do for the completions of a cell or a prompt variant, and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from backtracking_assets.analysis.detection import rules_document
from backtracking_assets.analysis.statistics_settings import statistics_document
from backtracking_assets.assets.changes import (
    changed_texts,
    condition_changes,
    problem_changes,
    rules_changes,
    statistics_changes,
)
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.stored_cells import failed
from backtracking_assets.conditions import Condition
from backtracking_assets.reporting.contents import CheckOutcome
from backtracking_assets.storage import queries
from backtracking_assets.storage.archive import archived_keys
from backtracking_assets.storage.chunk_progress import kept_steps
from backtracking_assets.storage.journal import finished_keys
from backtracking_assets.storage.overview import Overview, Row
from backtracking_assets.storage.parquet import DamagedFileError
from backtracking_assets.storage.rows import Key

State = Literal["done", "partial", "stale", "missing", "waiting"]
CellAsset = Literal["generations", "detections", "metrics", "condition_reports"]

_WITH_CHECKS: tuple[CellAsset, ...] = ("generations", "detections", "metrics")


@dataclass(frozen=True)
class Found:
    """What the store holds of a cell or a variant, beside the experiment that asks for it."""

    opened: OpenExperiment
    condition: Condition
    """The condition that is asked for now."""
    row: Row | None
    """Its row in the table of cells or of variants; None where it was never linked."""
    outcomes: tuple[CheckOutcome, ...]
    checked: frozenset[str]
    """The assets, named as those of a cell, whose checks are stored."""
    measured_by: str | None
    """Digest of the statistics that its metrics were computed by; None where there are none."""
    held: Overview
    kind: Literal["cell", "variant"] = "cell"

    @property
    def n_planned(self) -> int:
        return self.opened.experiment.completions_per_cell


@dataclass(frozen=True)
class Work:
    """What keeps a cell or a variant from being done, and what is done about it."""

    state: State
    reason: str
    next: str
    first: CellAsset
    """The asset to begin with; a variant has one of its own that does the same."""


def outstanding(found: Found, present: int) -> Work | None:
    """What is to be done up to the metrics, where so many completions are present; None where these are current."""
    if found.row is None:
        return _unlinked(found, present)
    return _linked(found, found.row, present)


def n_present(found: Found, counted: Mapping[str, int]) -> int:
    """Completions of the wanted problems and samples that are in the database, in the archive or in the journal.

    Args:
        counted: how many of them the database holds, by fingerprint.
    """
    opened, fingerprint = found.opened, found.condition.fingerprint
    in_database = counted.get(fingerprint, 0)
    if in_database >= found.n_planned:
        return found.n_planned
    keys: set[Key] = queries.completion_keys(opened.layout, fingerprint) if in_database else set()
    for find in (archived_keys, finished_keys):
        try:
            keys |= find(opened.layout, fingerprint)
        except DamagedFileError:  # the next sweep sets it aside
            continue
    return len(keys.intersection(opened.keys()))


def _unlinked(found: Found, present: int) -> Work:
    planned = found.n_planned
    if present < planned:
        steps = kept_steps(found.opened.layout, found.condition.fingerprint)
        begun = "" if steps is None else f"; a chunk is begun, and its state at decode step {steps:,} is kept"
        if present == 0:
            reason = f"no completion is finished{begun}" if begun else "nothing is there"
            return Work("missing", reason, f"generates {planned}", "generations")
        reason = f"{present} of {planned} completions are there{begun}"
        return Work("partial", reason, _generates(present, planned), "generations")
    reason = f"the completions are there, the {found.kind} is not linked to them"
    return Work("partial", reason, "links and reads them", "generations")


def _linked(found: Found, row: Row, present: int) -> Work | None:
    completions, rules = _completions_changes(found, row), _rules_changes(found, row)
    failing = failed(found.outcomes)
    if changes := completions + rules + _statistics_changes(found):
        first: CellAsset = "generations" if completions or failing else "detections" if rules else "metrics"
        return Work("stale", "; ".join(changes), _next(found, row, first, present), first)
    if failing:
        reason = f"its check {failing[0].name} fails: {failing[0].description}"
        return Work("partial", reason, "checks it anew", "generations")
    if row["rules_digest"] is None:
        # Begun with its completions: an interruption may have come before these were checked.
        reason = "the completions are not read for triggers and answers"
        return Work("partial", reason, "reads the completions", "generations")
    # Checks are stored after what they are of: an interruption may have come between the two.
    unchecked: list[CellAsset] = [asset for asset in _WITH_CHECKS if asset not in found.checked]
    if unchecked and unchecked[0] != "metrics":
        return Work("partial", f"the checks of its {unchecked[0]} are not made", "checks it", unchecked[0])
    if unchecked or found.measured_by is None:
        return Work("partial", "the metrics are not computed or not checked", "measures", "metrics")
    return None


def _completions_changes(found: Found, row: Row) -> list[str]:
    """What decides which completions it has, where that differs from what it was linked to."""
    changes: list[str] = []
    opened, held = found.opened, found.held
    if row["fingerprint"] != found.condition.fingerprint:
        before = held.conditions.get(row["fingerprint"])
        now = found.condition.model_dump(mode="json")
        changes += ["another condition"] if before is None else condition_changes(before, now)
    if row["problem_set_digest"] != opened.problem_set_digest:
        changes += problem_changes(held.problem_sets.get(row["problem_set_digest"], ()), opened.problems)
    samples = opened.experiment.problems.samples
    if row["n_samples"] != samples:
        changes.append(f"samples: {row['n_samples']} → {samples} a problem")
    return changes


def _rules_changes(found: Found, row: Row) -> list[str]:
    if row["rules_digest"] in (None, found.opened.rules_digest):
        return []
    before = found.held.settings.get(row["rules_digest"])
    return rules_changes(before, rules_document(found.opened.experiment.detection))


def _statistics_changes(found: Found) -> list[str]:
    statistics = found.opened.experiment.statistics
    if found.measured_by in (None, found.opened.statistics_digest):
        return []
    return statistics_changes(found.held.settings.get(found.measured_by), statistics_document(statistics))


def _next(found: Found, row: Row, first: CellAsset, present: int) -> str:
    """What the next sweep does where something has changed."""
    if first == "detections":
        return "reads anew"
    if first == "metrics":
        return "measures anew"
    same_condition = row["fingerprint"] == found.condition.fingerprint
    before = found.held.problem_sets.get(row["problem_set_digest"], ())
    if same_condition and changed_texts(before, found.opened.problems):
        return "refuses: a problem with another text needs another id"
    return _generates(present, found.n_planned) if present < found.n_planned else "links and reads anew"


def _generates(present: int, planned: int) -> str:
    return f"generates {planned - present}" + (f", keeps {present}" if present else "")
