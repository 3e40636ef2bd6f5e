"""What is computed of a study as a whole: for each job its assets, what it looks at, and whether it is done.

A job of the whole study is an entry of `WHOLE_STUDY`, and its name stands where it is run in `jobs.ORDER`. The command
line takes the order, what is skipped and what is waited for from there.
"""

from collections.abc import Callable
from dataclasses import dataclass

from backtracking_assets.assets.averaging import component_means_is_done
from backtracking_assets.assets.compositions import MEANS
from backtracking_assets.assets.continuing import settings_of, stored_summaries
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.pages import sweep_is_reported
from backtracking_assets.errors import ExperimentError
from backtracking_assets.experiment import Experiment
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import Cell

NeedsCell = Callable[[Experiment, Cell], bool]


def no_cell(experiment: Experiment, cell: Cell) -> bool:
    return False


def every_cell(experiment: Experiment, cell: Cell) -> bool:
    return True


def baseline_cells(experiment: Experiment, cell: Cell) -> bool:
    return cell.scale == BASELINE_SCALE


def compared_cells(experiment: Experiment, cell: Cell) -> bool:
    """The cells that phase 1 compares."""
    return cell in experiment.compared_cells()


def cells_at_lowest_scale(experiment: Experiment, cell: Cell) -> bool:
    return cell.scale in (min(experiment.scales), BASELINE_SCALE)


def cells_of_targeted(experiment: Experiment, cell: Cell) -> bool:
    """All but the cells of random controls."""
    return experiment.control_of(cell.layer_subset) is None


@dataclass(frozen=True)
class WholeStudyJob:
    """A job that runs once for the whole study."""

    assets: tuple[str, ...]
    is_done: Callable[[OpenExperiment], bool]
    """Whether what is stored was computed from what is there now. Asked right before the job would run."""
    cells: NeedsCell = no_cell
    """Planned cells that come before it where the job is asked for alone."""
    looks_at_baseline: bool = False
    """Skipped while the sweep has no baseline."""
    looks_at_variants: bool = False
    """Every prompt variant comes before it; skipped while one is not there."""
    after: tuple[str, ...] = ()
    """Other jobs that must be done; skipped while one is not."""
    before_cells: bool = False
    """Run before the cells, whose layers may be derived from it."""
    runs_model: bool = False
    """Left out where no model shall be loaded, and where only some cells are asked for."""
    settings: Callable[[Experiment], object] | None = None
    """Returns the section of the experiment file that asks for it, or raises ExperimentError; None if it needs none."""
    announcement: Callable[[Experiment], str] | None = None
    """A line for the terminal before a job that takes its time."""

    def is_asked(self, experiment: Experiment) -> bool:
        """Whether the experiment has this job."""
        if self.settings is None:
            return True
        try:
            self.settings(experiment)
        except ExperimentError:
            return False
        return True


def phase1_settings(experiment: Experiment) -> object:
    """The section of the experiment file that asks for phase 1.

    Raises:
        ExperimentError: it has none.
    """
    return experiment.for_variant(experiment.prompting.variant).phase1


def _continuation_line(experiment: Experiment) -> str:
    n_cells, n_events = len(experiment.continuation_cells()), settings_of(experiment).events
    return f"Continuation ablation: {n_cells} interventions at up to {n_events} events of the baseline."


def continuation_is_done(opened: OpenExperiment) -> bool:
    """Whether there is nothing to do for the continuation ablation: it is current, or not asked for."""
    return opened.experiment.continuation is None or stored_summaries(opened) is not None


def means_settings(experiment: Experiment) -> object:
    """The section of the experiment file that says where means come from.

    Raises:
        ExperimentError: no subset is scaled towards means.
    """
    if not experiment.needs_means:
        raise ExperimentError(
            f"{experiment.source} has no subset with towards: mean, so there are no means to compute."
        )
    return experiment.means


def _means_line(experiment: Experiment) -> str:
    n_problems, n_samples = experiment.means.problems, experiment.means.samples
    return (
        f"Means of the outputs: {n_problems * n_samples} completions of the baseline on {n_problems} problems that the "
        "sweep does not ask."
    )


CONTINUATION_JOB = "phase2_continuation_ablation"
"""There only where the experiment file has a section `continuation`."""

REPORT_JOB = "make_report_phase2"

WHOLE_STUDY: dict[str, WholeStudyJob] = {
    # In no step's order: it is run before the cells wherever one of them waits for it.
    MEANS: WholeStudyJob(
        (MEANS,),
        component_means_is_done,
        before_cells=True,
        runs_model=True,
        settings=means_settings,
        announcement=_means_line,
    ),
    # The comparisons and the page are made together: the page says when either is older than the cells.
    "phase2_subset_sweep": WholeStudyJob(
        ("subset_sweep",), sweep_is_reported, cells=cells_at_lowest_scale, looks_at_baseline=True
    ),
    "phase2_scale_sweep": WholeStudyJob(
        ("scale_sweep",), sweep_is_reported, cells=cells_of_targeted, looks_at_baseline=True
    ),
    CONTINUATION_JOB: WholeStudyJob(
        ("continuation_ablation",),
        continuation_is_done,
        cells=baseline_cells,
        looks_at_baseline=True,
        runs_model=True,
        settings=settings_of,
        announcement=_continuation_line,
    ),
    REPORT_JOB: WholeStudyJob(("phase2_report",), sweep_is_reported),
}
"""By the job's name, which is also a step of the command line."""
