"""Dagster's instance as the commands use it."""

import os
from pathlib import Path

import dagster as dg
from dagster._core.instance.ref import InstanceRef

from backtracking_assets.execution.dagster_home import opening_lock, prepare_dagster_home
from backtracking_assets.execution.dead_runs import end_dead_runs
from backtracking_assets.execution.devices import devices_for
from backtracking_assets.execution.warm_storage import warm
from backtracking_assets.places import PROJECT_ROOT

DEFAULT_DAGSTER_HOME = PROJECT_ROOT / "data" / "dagster_home"


def open_instance() -> dg.DagsterInstance:
    """The instance in `DAGSTER_HOME`, made at first use for as many runs at once as there are devices.

    Runs that an earlier process left unfinished when it died are ended, and their slots are freed.

    Raises:
        StorageError: its folder cannot be written.
    """
    home = prepare_dagster_home(DEFAULT_DAGSTER_HOME, lambda: len(devices_for("auto")))
    with opening_lock(home):
        instance = _opened(home)
        end_dead_runs(instance)
    return instance


def join_instance() -> dg.DagsterInstance:
    """The instance of the command that started this process; see `open_instance`."""
    home = Path(os.environ["DAGSTER_HOME"])
    with opening_lock(home):
        return _opened(home)


def _opened(home: Path) -> dg.DagsterInstance:
    """The instance in a folder as every process of a command has it. Under the folder's lock."""
    return dg.DagsterInstance.from_ref(warm(InstanceRef.from_dir(str(home))))
