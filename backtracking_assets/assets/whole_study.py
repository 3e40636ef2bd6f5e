"""What is computed of a study as a whole: for each job its assets, what it looks at, and whether it is done.

A job of the whole study is an entry of `WHOLE_STUDY`, and its name stands where it is run in `jobs.ORDER`. The command
line takes the order, what is skipped and what is waited for from there.
"""

from collections.abc import Callable
from dataclasses import dataclass

from backtracking_assets.assets.averaging import component_means_is_done
from backtracking_assets.assets.compositions import MEANS
from backtracking_assets.assets.continuing import known_cells, settings_of, stored_summaries
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.pages import sweep_is_reported
from backtracking_assets.assets.phase1_contents import phase1_is_reported
from backtracking_assets.assets.phase1_results import conditions_are_done, formatting_is_done, metrics_v2_is_done
from backtracking_assets.assets.positive_control_inputs import positive_control_is_done
from backtracking_assets.assets.positive_control_inputs import settings_of as control_settings
from backtracking_assets.assets.scanning import (
    component_importance_is_done,
    logit_lens_is_done,
    selected_components_is_done,
)
from backtracking_assets.assets.scanning import settings_of as scan_settings
from backtracking_assets.errors import ExperimentError
from backtracking_assets.experiment import Experiment
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import Cell
from backtracking_assets.reporting.formats import plural

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
    announcement: Callable[[OpenExperiment], str] | None = None
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


def means_settings(experiment: Experiment) -> object:
    """The section of the experiment file that says what means are taken over.

    Raises:
        ExperimentError: no subset is scaled towards means.
    """
    if not experiment.needs_means:
        raise ExperimentError(
            f"No layer subset in {experiment.source} is scaled towards means; give one towards: mean."
        )
    return experiment.means


def _means_line(opened: OpenExperiment) -> str:
    means = opened.experiment.means
    return (
        f"Means of the outputs: {plural(means.problems * means.samples, 'completion')} of the baseline on "
        f"{plural(means.problems, 'problem')} that the sweep does not ask."
    )


def _continuation_line(opened: OpenExperiment) -> str:
    n_cells, n_events = len(known_cells(opened)), settings_of(opened.experiment).events
    return f"Continuation ablation: {n_cells} interventions at up to {n_events} events of the baseline."


def continuation_is_done(opened: OpenExperiment) -> bool:
    """Whether there is nothing to do for the continuation ablation: it is current, or not asked for."""
    return opened.experiment.continuation is None or stored_summaries(opened) is not None


def _scan_line(opened: OpenExperiment) -> str:
    experiment = opened.experiment
    n_components, n_events = 2 * experiment.model.n_layers, scan_settings(experiment).events
    return f"Component scan: {n_components} components at up to {n_events} events of held-out problems."


SCAN_JOB = "phase1_component_importance"
"""There only where the experiment file has a section `scan`."""

CONTINUATION_JOB = "phase2_continuation_ablation"
"""There only where the experiment file has a section `continuation`."""

POSITIVE_CONTROL_JOB = "positive_control"
"""There only where the experiment file has a section `positive_control`."""

REPORT_JOB = "make_report_phase2"

PHASE1_REPORT_JOB = "make_report_phase1"

WHOLE_STUDY: dict[str, WholeStudyJob] = {
    MEANS: WholeStudyJob(
        (MEANS,),
        component_means_is_done,
        before_cells=True,
        runs_model=True,
        settings=means_settings,
        announcement=_means_line,
    ),
    "phase1_formatting_sweep": WholeStudyJob(
        ("formatting_sweep",), formatting_is_done, looks_at_variants=True, settings=phase1_settings
    ),
    "metrics_v2": WholeStudyJob(("metrics_v2",), metrics_v2_is_done, looks_at_variants=True, settings=phase1_settings),
    "phase1_compare_conditions": WholeStudyJob(
        ("compare_conditions",),
        conditions_are_done,
        cells=compared_cells,
        looks_at_baseline=True,
        settings=phase1_settings,
    ),
    PHASE1_REPORT_JOB: WholeStudyJob(("phase1_report",), phase1_is_reported, settings=phase1_settings),
    "phase1_logit_lens": WholeStudyJob(
        ("logit_lens",), logit_lens_is_done, looks_at_variants=True, runs_model=True, settings=scan_settings
    ),
    SCAN_JOB: WholeStudyJob(
        ("component_importance",),
        component_importance_is_done,
        looks_at_variants=True,
        before_cells=True,
        runs_model=True,
        settings=scan_settings,
        announcement=_scan_line,
    ),
    "phase1_selected_components": WholeStudyJob(
        ("selected_components",),
        selected_components_is_done,
        looks_at_variants=True,
        after=(SCAN_JOB,),
        before_cells=True,
        settings=scan_settings,
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
    # It shows the comparisons that are there; full_study makes them before it.
    POSITIVE_CONTROL_JOB: WholeStudyJob(
        ("positive_control",),
        positive_control_is_done,
        cells=baseline_cells,
        looks_at_variants=True,
        after=(SCAN_JOB, "phase1_selected_components", CONTINUATION_JOB),
        settings=control_settings,
    ),
    REPORT_JOB: WholeStudyJob(("phase2_report",), sweep_is_reported),
}
"""By the job's name, which is also a step of the command line."""
