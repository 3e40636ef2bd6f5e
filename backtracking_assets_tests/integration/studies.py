"""A tiny experiment with outputs and a Dagster instance of its own, and what runs it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from backtracking_assets.assets.jobs import CELLS_JOB
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.definitions import build_definitions
from backtracking_assets.experiment import Experiment
from backtracking_assets.partitions import cell_key
from backtracking_assets.records import Cell
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.queries import completions
from backtracking_assets_tests.tiny import experiment_document, write_experiment, write_problems

WHERE_AND_WHEN = ("run_id", "generated_at", "chunk_seconds")
"""Columns of a completion that say which run made it and when; all others must be the same in every sweep."""

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True)
class Study:
    """A tiny experiment and the folder with its file, problems, outputs and Dagster instance."""

    home: Path
    document: Mapping[str, Any]

    @property
    def file(self) -> Path:
        return self.home / "tiny.yaml"

    @property
    def problems(self) -> Path:
        return self.home / "problems.jsonl"

    @property
    def layout(self) -> StoreLayout:
        return StoreLayout(self.home / "runs" / str(self.document["name"]))

    @property
    def environment(self) -> dict[str, str]:
        return {
            "BACKTRACKING_HOME": str(self.home / "runs"),
            "DAGSTER_HOME": str(self.home / "dagster_home"),
            "BACKTRACKING_DEVICE_LOCKS": str(self.home / "device_locks"),
        }

    def experiment(self, **changes: Mapping[str, Any] | list[Any]) -> Experiment:
        """The experiment with sections merged or replaced, written to its file and loaded."""
        document = {**self.document}
        for section, change in changes.items():
            document[section] = {**document.get(section, {}), **change} if isinstance(change, Mapping) else change
        return write_experiment(self.file, document)

    def opened(self, **changes: Mapping[str, Any] | list[Any]) -> OpenExperiment:
        return OpenExperiment(self.experiment(**changes))

    @contextmanager
    def active(self) -> Iterator[None]:
        """Have this process put outputs and Dagster's events into this study's folder."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            yield


def make_study(home: Path, checkpoint: Path) -> Study:
    """A study in a new folder, with its problem and experiment files written."""
    home.mkdir(parents=True, exist_ok=True)
    study = Study(home, experiment_document(checkpoint, write_problems(home / "problems.jsonl")))
    study.experiment()
    return study


def run_cell(instance: dg.DagsterInstance, experiment: Experiment, cell: Cell) -> dg.ExecuteInProcessResult:
    """Materialize the four assets of a cell in this process."""
    job = build_definitions(experiment).resolve_job_def(CELLS_JOB)
    return job.execute_in_process(
        instance=instance, partition_key=cell_key(cell), run_config=QUIET, raise_on_error=False
    )


def content(layout: StoreLayout, fingerprint: str) -> pa.Table:
    """A condition's completions in the database, without who made them and when."""
    return completions(layout, fingerprint).drop_columns(list(WHERE_AND_WHEN))
