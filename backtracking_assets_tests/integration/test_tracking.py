"""Finished cells in Weights & Biases: offline, with the real package where it is installed, and without it."""

import json
import socket
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from backtracking_assets.assets import tracking
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.stored_cells import metrics_of
from backtracking_assets.cli.instance import open_instance
from backtracking_assets.records import Cell
from backtracking_assets.storage import queries
from backtracking_assets_tests.integration.studies import Study, make_study, run_cell

CELLS = (Cell("attn_1", 1.0), Cell("attn_1", 0.0))
KEY = "k3y" * 14
INSTALLED = find_spec("wandb") is not None
needs_wandb = pytest.mark.skipif(not INSTALLED, reason="wandb is not installed")
_BLOCK, _HEADER = 32768, 7


@pytest.fixture(scope="module")
def study(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Two cells that were made without a key."""
    study = make_study(tmp_path_factory.mktemp("tracked") / "study", tiny_checkpoint)
    with study.active(), pytest.MonkeyPatch.context() as patch, open_instance() as instance:
        patch.delenv("WANDB_API_KEY", raising=False)
        for cell in CELLS:
            assert run_cell(instance, study.experiment(), cell).success
    return study


@pytest.fixture
def opened(study: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[OpenExperiment]:
    """The study with a key set, a home folder of its own, and nothing given up yet."""
    monkeypatch.setattr(tracking, "_warnings", [])
    tracking._failed.clear()
    for name, value in {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline", "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    with study.active():
        yield study.opened()
    tracking._failed.clear()
    if INSTALLED:
        import wandb  # pyright: ignore[reportMissingImports]

        wandb.teardown()  # it keeps the settings of its first run


def test_without_a_key_nothing_happens(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert not tracking.is_tracked()
    tracking.track_cell(study.opened(), CELLS[0], pytest.fail)
    assert not (study.layout.root / "wandb").exists()
    assert "wandb" not in sys.modules or INSTALLED


@pytest.mark.skipif(INSTALLED, reason="wandb is installed")
def test_without_the_package_a_cell_is_made_as_ever(opened: OpenExperiment, study: Study) -> None:
    assert not tracking.is_tracked()
    before = queries.metrics(study.layout)
    with open_instance() as instance:
        assert run_cell(instance, study.experiment(), CELLS[0]).success
    assert queries.metrics(study.layout).drop_columns("run_id").equals(before.drop_columns("run_id"))
    assert not (study.layout.root / "wandb").exists()


def test_a_folder_called_wandb_is_not_the_package(
    opened: OpenExperiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert tracking.is_tracked() is INSTALLED


@needs_wandb
def test_a_finished_cell_is_logged_with_its_figures(opened: OpenExperiment, study: Study, tmp_path: Path) -> None:
    with open_instance() as instance:
        for cell in CELLS:
            assert run_cell(instance, study.experiment(), cell).success
    assert tracking.tracking_warning() is None
    folders = sorted((study.layout.root / "wandb").glob("offline-run-*"))
    assert len(folders) == len(CELLS)
    for folder, cell in zip(folders, CELLS, strict=True):
        records = list(_records(next(folder.glob("*.wandb"))))
        assert {record.run.run_id for record in records if record.HasField("run")} == {tracking.run_name(opened)}
        history = _values(next(record.history.item for record in records if record.HasField("history")))
        assert (history["layer_subset"], history["scale"], history["components"]) == (
            "attn_1",
            cell.scale,
            "attention.1",
        )
        rows = {row["metric"]: row for row in metrics_of(opened, cell).to_pylist()}
        assert history["strict_rate"] == rows["strict_rate"]["estimate"]
        assert history["mean_tokens"] == rows["mean_tokens"]["estimate"]
        summary = {}
        for record in records:
            summary |= _values(record.summary.update) if record.HasField("summary") else {}
        for other in CELLS:  # every measured cell, whichever was logged
            assert f"{other}/strict_rate" in summary
    for place in (study.layout.root, tmp_path, study.home):
        assert not [path for path in place.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


@needs_wandb
def test_a_tracker_that_fails_warns_once_and_fails_no_cell(
    opened: OpenExperiment, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "too-short-a-key")
    monkeypatch.setenv("WANDB_MODE", "online")
    with open_instance() as instance:
        assert run_cell(instance, study.experiment(), CELLS[0]).success
    tracking.track_cell(opened, CELLS[1], pytest.fail)  # given up: nothing is said again
    warning = tracking.tracking_warning()
    assert warning is not None
    assert "Cells are not logged to Weights & Biases" in warning
    assert "too-short-a-key" not in warning
    assert tracking.tracking_warning() is None


@needs_wandb
def test_a_tracker_that_hangs_is_given_up(opened: OpenExperiment, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(tracking, "MOST_WAITING", 2.0)
        tracking.track_cell(opened, CELLS[0], said.append)
        tracking.track_cell(opened, CELLS[1], said.append)
    assert len(said) == 1
    assert KEY not in said[0]


def _records(path: Path) -> Iterator[Any]:
    """The records of a run's file: LevelDB's log format behind a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportMissingImports]

    content, at, pending = path.read_bytes(), _HEADER, b""
    while at + _HEADER <= len(content):
        if _BLOCK - at % _BLOCK < _HEADER:
            at += _BLOCK - at % _BLOCK
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        pending += content[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(pending)
            yield record
            pending = b""


def _values(entries: Any) -> dict[str, Any]:
    return {entry.key or "/".join(entry.nested_key): json.loads(entry.value_json) for entry in entries}
