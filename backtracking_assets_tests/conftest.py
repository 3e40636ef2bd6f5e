"""Fixtures: outputs in a temporary folder, one CPU thread, tiny checkpoints."""

from pathlib import Path

import pytest
import torch

from backtracking_assets.experiment import Experiment
from backtracking_assets_tests.tiny import experiment_document, make_checkpoint, write_experiment, write_problems


@pytest.fixture(autouse=True)
def _outputs_in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKTRACKING_HOME", str(tmp_path / "runs"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster_home"))
    # Tests that run side by side must not wait for each other's CPU.
    monkeypatch.setenv("BACKTRACKING_DEVICE_LOCKS", str(tmp_path / "device_locks"))
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Qwen2 checkpoint with a byte-level tokenizer."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture
def tiny_experiment(tiny_checkpoint: Path, tmp_path: Path) -> Experiment:
    """Two subsets x two scales and one random control, 3 problems x 2 samples a cell."""
    problems = write_problems(tmp_path / "problems.jsonl")
    return write_experiment(tmp_path / "tiny.yaml", experiment_document(tiny_checkpoint, problems))
