"""Whether the whole-sweep results, comparisons and page, show the cells as the store holds them now."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from backtracking_assets.assets.continuing import stored_digest
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.page_files import cells_shown, has_version, sweep_report_path
from backtracking_assets.assets.status import CellStatus, planned_status, read_overview
from backtracking_assets.assets.stored_cells import (
    StoredCell,
    baseline_among,
    current_among,
    outcomes_by_cell,
)
from backtracking_assets.conditions import digest
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import Cell
from backtracking_assets.storage.imported_runs import imported_digests
from backtracking_assets.storage.overview import Comparison, Overview


@dataclass(frozen=True)
class ResultStatus:
    """Whether a whole-sweep result shows the cells as they are."""

    state: Literal["current", "older", "missing"]
    n_changed: int = 0
    """Cells that have changed, come or gone since it was made."""


@dataclass(frozen=True)
class SweepStatus:
    """How far the plan is, and whether what is shown of all of it is current."""

    cells: list[CellStatus]
    shown: dict[str, str]
    """The cells that are done, and the version of their figures."""
    page_version: str
    page: ResultStatus
    comparisons: ResultStatus

    @property
    def cells_digest(self) -> str:
        return digest_of_cells(self.shown)

    @property
    def is_reported(self) -> bool:
        """Whether nothing is left to do for the whole sweep."""
        return self.page.state == "current" and self.comparisons.n_changed == 0


def sweep_status(opened: OpenExperiment) -> SweepStatus:
    """All of it, from one look at the store. Writes nothing.

    Raises:
        BacktrackingError: a source or the store cannot be read.
    """
    held = read_overview(opened)
    statuses = planned_status(opened, held)
    shown = {str(status.cell): status.version for status in statuses if status.state == "done"}
    compared = sorted({str(comparison.cell) for comparison in held.comparisons})
    planned, continued = [str(status.cell) for status in statuses], stored_digest(opened)
    version = digest([digest_of_cells(shown), planned, compared, continued, imported_digests(opened.layout)])
    return SweepStatus(statuses, shown, version, _page(opened, shown, version), _comparisons(opened, held))


def comparisons_status(opened: OpenExperiment) -> ResultStatus:
    """Whether the stored comparisons are those of the cells as they are. Writes nothing."""
    return _comparisons(opened, read_overview(opened))


def cells_digest(stored: Iterable[StoredCell]) -> str:
    """Digest of the cells that whole-sweep figures are made from."""
    return digest_of_cells({str(cell.cell): cell.metrics_version() for cell in stored})


def digest_of_cells(versions: Mapping[str, str]) -> str:
    """Digest of cells, given the version of their figures by name."""
    return digest(sorted([name, version] for name, version in versions.items()))


def _page(opened: OpenExperiment, shown: Mapping[str, str], version: str) -> ResultStatus:
    path = sweep_report_path(opened)
    if has_version(path, version):
        return ResultStatus("current")
    before = cells_shown(path)
    return ResultStatus("missing") if before is None else ResultStatus("older", _n_differing(before, shown))


def _comparisons(opened: OpenExperiment, held: Overview) -> ResultStatus:
    before, now = _by_cell(held.comparisons), _by_cell(_wanted_comparisons(opened, held))
    n_changed = _n_differing(before, now)
    return ResultStatus("missing" if not before else "older" if n_changed else "current", n_changed)


def _wanted_comparisons(opened: OpenExperiment, held: Overview) -> list[Comparison]:
    """What comparisons of the cells as they are now would be computed from; none without a baseline."""
    at_one = outcomes_by_cell(row for row in held.checks if row["scale"] == BASELINE_SCALE)
    baseline = baseline_among(opened, held.cells, at_one)
    if baseline is None:
        return []
    planned = opened.experiment.planned_cells()
    statistics, n_comparisons = opened.statistics_digest, family_size(opened, baseline)
    return [
        Comparison(
            cell=stored.cell,
            fingerprint=stored.fingerprint,
            baseline_fingerprint=baseline.fingerprint,
            problem_set_digest=stored.problem_set_digest,
            rules_digest=opened.rules_digest,
            statistics_digest=statistics,
            n_comparisons=n_comparisons,
        )
        for stored in current_among(opened, planned, held.cells)
        if stored.fingerprint != baseline.fingerprint
    ]


def family_size(opened: OpenExperiment, baseline: StoredCell) -> int:
    """Planned cells that are compared with the baseline, those that are not there yet included."""
    planned = opened.experiment.planned_cells()
    conditions = [opened.condition_if_known(cell) for cell in planned]
    return sum(condition is None or condition.fingerprint != baseline.fingerprint for condition in conditions)


def _by_cell(comparisons: Iterable[Comparison]) -> dict[Cell, set[Comparison]]:
    found: dict[Cell, set[Comparison]] = {}
    for comparison in comparisons:
        found.setdefault(comparison.cell, set()).add(comparison)
    return found


def _n_differing(before: Mapping, now: Mapping) -> int:
    return sum(before.get(key) != now.get(key) for key in before.keys() | now.keys())
