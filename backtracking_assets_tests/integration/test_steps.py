"""What each step of the command line does: which cells, whether the prompt variants, which jobs."""

import pytest

from backtracking_assets.assets.jobs import STEPS, asked_jobs
from backtracking_assets.assets.whole_study import WHOLE_STUDY
from backtracking_assets.experiment import Experiment
from backtracking_assets.experiment_file import load_experiment


@pytest.fixture(scope="module")
def organism() -> Experiment:
    return load_experiment("organism")


def test_the_study_is_its_two_phases(organism: Experiment) -> None:
    full, first, second = (STEPS[name] for name in ("full_study", "phase1", "phase2"))
    assert full.jobs == (*first.jobs, *second.jobs)
    assert (full.variants, first.variants, second.variants) == (True, True, False)
    planned = organism.planned_cells()
    assert all(step.cells(organism, cell) for step in (full, second) for cell in planned)
    compared = [cell for cell in planned if first.cells(organism, cell)]
    assert set(compared) == set(organism.compared_cells())
    assert len(compared) == 1 + 1 + 19


def test_every_job_of_the_whole_study_is_a_step_of_its_own(organism: Experiment) -> None:
    assert set(WHOLE_STUDY) <= set(STEPS)
    assert asked_jobs(organism, tuple(WHOLE_STUDY)) == list(WHOLE_STUDY)
    plain = organism.model_copy(update={"phase1": None, "scan": None, "continuation": None, "positive_control": None})
    assert "metrics_v2" not in asked_jobs(plain, tuple(WHOLE_STUDY))
    assert "phase2_subset_sweep" in asked_jobs(plain, tuple(WHOLE_STUDY))


def test_what_a_job_looks_at_is_done_before_it() -> None:
    jobs = STEPS["full_study"].jobs
    for name in jobs:
        assert all(jobs.index(other) < jobs.index(name) for other in WHOLE_STUDY[name].after), name
