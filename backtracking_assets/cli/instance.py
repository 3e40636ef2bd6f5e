"""Dagster's instance as the commands use it."""

import dagster as dg

from backtracking_assets.execution.dagster_home import prepare_dagster_home, set_gpu_pool_limit
from backtracking_assets.execution.dead_runs import end_dead_runs
from backtracking_assets.experiment import PROJECT_ROOT

DEFAULT_DAGSTER_HOME = PROJECT_ROOT / "data" / "dagster_home"


def open_instance(devices: int) -> dg.DagsterInstance:
    """The instance in `DAGSTER_HOME`, made at first use, with as many slots in the pool of generation as devices.

    Runs that an earlier process left unfinished when it died are ended, and their slots are freed.

    Raises:
        StorageError: its folder cannot be written.
    """
    prepare_dagster_home(DEFAULT_DAGSTER_HOME, devices)
    instance = dg.DagsterInstance.get()
    set_gpu_pool_limit(instance, devices)
    end_dead_runs(instance)
    return instance
