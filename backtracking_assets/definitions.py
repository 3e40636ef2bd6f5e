"""Definitions for Dagster: one code location for each experiment file, and nothing else builds them.

`workspace.yaml` names an experiment as the attribute of this module: `backtracking_assets.definitions.organism` is the
Definitions of `data/experiments/organism.yaml`. A new file there needs a new entry in `workspace.yaml` and no code.
Loading needs neither torch, nor weights, nor the network.
"""

import dagster as dg

from backtracking_assets.assets.graph import experiment_assets
from backtracking_assets.assets.jobs import jobs
from backtracking_assets.assets.loaded import import_engine
from backtracking_assets.execution.devices import device_locks_dir
from backtracking_assets.execution.gpu_executor import gpu_executor
from backtracking_assets.experiment import Experiment
from backtracking_assets.experiment_file import experiment_names, load_experiment


def build_definitions(experiment: Experiment) -> dg.Definitions:
    """The asset graph, jobs and executor of one experiment."""
    return dg.Definitions(
        assets=experiment_assets(experiment),
        jobs=jobs(experiment),
        executor=gpu_executor(experiment, device_locks_dir(), import_engine),
    )


def __getattr__(name: str) -> dg.Definitions:
    if name in experiment_names():
        return build_definitions(load_experiment(name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}, and there is no experiment of that name")
