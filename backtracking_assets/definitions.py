"""Definitions for Dagster: one code location for each experiment file, and nothing else builds them.

`workspace.yaml` names an experiment as the attribute of this module: `backtracking_assets.definitions.organism` is the
Definitions of `data/experiments/organism.yaml`. A new file there needs a new entry in `workspace.yaml` and no code.
Loading needs neither torch, nor weights, nor the network.
"""

import warnings

import dagster as dg

from backtracking_assets.assets.cells import cell_assets
from backtracking_assets.assets.continuation import continuation_assets
from backtracking_assets.assets.jobs import jobs
from backtracking_assets.assets.sources import source_assets
from backtracking_assets.assets.sweep import sweep_assets
from backtracking_assets.execution.devices import device_locks_dir
from backtracking_assets.execution.gpu_executor import gpu_executor
from backtracking_assets.experiment import Experiment
from backtracking_assets.experiment_file import experiment_names, load_experiment


def build_definitions(experiment: Experiment) -> dg.Definitions:
    """The asset graph, jobs and executor of one experiment."""
    with warnings.catch_warnings():
        # Known and accepted: partitioned check specs (preview) and the mapping to one dimension (beta). The range of
        # Dagster's version is narrow for their sake.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.Definitions(
            assets=[
                *source_assets(experiment),
                *cell_assets(experiment),
                *continuation_assets(experiment),
                *sweep_assets(experiment),
            ],
            jobs=jobs(experiment),
            executor=gpu_executor(experiment.model.device, device_locks_dir()),
        )


def __getattr__(name: str) -> dg.Definitions:
    if name in experiment_names():
        return build_definitions(load_experiment(name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}, and there is no experiment of that name")
