"""Figures are shown only beside what they were computed from, and pages catch up with a baseline that comes later."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from backtracking_assets.assets import cells
from backtracking_assets.assets.page_files import report_path
from backtracking_assets.assets.pages import refresh_pages
from backtracking_assets.assets.status import planned_status
from backtracking_assets.assets.stored_cells import detected_cell
from backtracking_assets.cli.instance import open_instance
from backtracking_assets.definitions import build_definitions
from backtracking_assets.errors import StorageError
from backtracking_assets.partitions import cell_key
from backtracking_assets.records import Cell
from backtracking_assets_tests.integration.studies import QUIET, Study, make_study, run_cell

ABLATED, BASELINE = Cell("attn_1", 0.0), Cell("attn_1", 1.0)


@pytest.fixture
def study(tmp_path: Path, tiny_checkpoint: Path) -> Iterator[Study]:
    study = make_study(tmp_path / "study", tiny_checkpoint)
    with study.active():
        yield study


def reasons(study: Study) -> dict[Cell, str]:
    return {status.cell: status.reason for status in planned_status(study.opened())}


def test_a_page_written_before_the_baseline_is_written_anew_once_it_is_there(study: Study) -> None:
    with open_instance() as instance:
        assert run_cell(instance, study.experiment(), ABLATED).success
        assert reasons(study)[ABLATED] == ""
        page = report_path(study.opened(), ABLATED)
        assert "baseline is not there yet" in page.read_text(encoding="utf-8")
        assert run_cell(instance, study.experiment(), BASELINE).success
    assert "another baseline" in reasons(study)[ABLATED]
    assert refresh_pages(study.opened(), "a-run") == 1
    assert refresh_pages(study.opened(), "a-run") == 0
    assert reasons(study)[ABLATED] == ""
    assert "baseline is not there yet" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "asset", "said"),
    [
        ({"sampling": {"temperature": 0.5}}, "metrics", "materialize its generations first"),
        ({"sampling": {"temperature": 0.5}}, "condition_reports", "materialize its generations first"),
        ({"problems": {"seed": 99}}, "detections", "materialize its generations first"),
        ({"detection": {"strict": ["Hmm"]}}, "condition_reports", "materialize its detections first"),
        ({"detection": {"strict": ["Hmm"]}}, "metrics", "materialize its detections first"),
    ],
)
def test_an_asset_refuses_to_work_on_what_is_no_longer_asked_for(
    study: Study, changes: dict, asset: str, said: str
) -> None:
    with open_instance() as instance:
        assert run_cell(instance, study.experiment(), BASELINE).success
        changed = study.experiment(**changes)
        result = (
            build_definitions(changed)
            .resolve_job_def("phase2_cells")
            .execute_in_process(
                instance=instance,
                partition_key=cell_key(BASELINE),
                asset_selection=[dg.AssetKey(["tiny", asset])],
                run_config=QUIET,
                raise_on_error=False,
            )
        )
    assert not result.success
    (failure,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failure.user_failure_data is not None
    assert said in (failure.user_failure_data.description or "")


def test_a_cell_that_is_read_by_other_rules_is_not_shown(study: Study) -> None:
    with open_instance() as instance:
        assert run_cell(instance, study.experiment(), BASELINE).success
    assert detected_cell(study.opened(), BASELINE).detected
    with pytest.raises(StorageError, match="not read by the rules as they are now"):
        detected_cell(study.opened(detection={"strict": ["Hmm"]}), BASELINE)


def test_the_identity_probe_is_not_repeated_for_completions_it_was_made_for(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed: list[Cell] = []
    probe = cells.probe_identity

    def counting(opened, cell):
        probed.append(cell)
        return probe(opened, cell)

    monkeypatch.setattr(cells, "probe_identity", counting)
    with open_instance() as instance:
        for _ in range(2):
            assert run_cell(instance, study.experiment(), ABLATED).success
        assert probed == [ABLATED]
        assert run_cell(instance, study.experiment(sampling={"seed": 8}), ABLATED).success
    assert probed == [ABLATED, ABLATED]


def test_a_single_problem_goes_through_with_a_warning(study: Study) -> None:
    with open_instance() as instance:
        result = run_cell(instance, study.experiment(problems={"count": 1}), BASELINE)
    assert result.success
    (check,) = [
        found for found in result.get_asset_check_evaluations() if found.check_name == "accuracy_above_shuffled"
    ]
    assert not check.passed
    assert "cannot be judged" in (check.description or "")
