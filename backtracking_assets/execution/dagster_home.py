"""Dagster's instance folder, made with its settings at first use."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from backtracking_assets.errors import StorageError
from backtracking_assets.execution.gpu_executor import GPU_POOL
from backtracking_assets.unwritable import SAFE, cannot_write, refusal

_SETTINGS = """\
# Made at first use; edit it freely. Where nothing was edited, the UI keeps the two limits at the number of devices.
telemetry: {{enabled: false}}
nux: {{enabled: false}}  # its dialog would cover the page
concurrency:
  # One run a device generates. One more may start its process meanwhile, and waits for a device with all imports done.
  pools: {{granularity: op, default_limit: {devices}, op_granularity_run_buffer: 1}}
  runs: {{max_concurrent_runs: {runs}}}
run_retries:
  enabled: true
  max_retries: 1
  retry_on_asset_or_op_failure: false  # a dead process is tried again, a failed check is not
run_monitoring:
  enabled: true
  start_timeout_seconds: 300
  # A process that dies while it generates keeps its run's slot in the pool; its retry would wait for it for ever.
  free_slots_after_run_end_seconds: 5
"""


def prepare_dagster_home(default: Path, count_devices: Callable[[], int]) -> Path:
    """The folder of Dagster's instance: `DAGSTER_HOME`, or `default`; made with its dagster.yaml if there is none.

    Sets `DAGSTER_HOME` for this process and its children.

    Args:
        count_devices: how many runs may generate at once; asked only where the settings are made.

    Raises:
        StorageError: the folder cannot be written, found by writing into it.
    """
    home = Path(os.environ.get("DAGSTER_HOME") or default).expanduser().resolve()
    settings = home / "dagster.yaml"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not settings.exists():
            _write(settings, _settings(count_devices()))
        # Whether it can be written is not in its permission bits: the disk may be read-only or full.
        if (refused := refusal(home)) is not None:
            raise refused
    except OSError as error:
        raise _unwritable(home, error) from error
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def _settings(devices: int) -> str:
    return _SETTINGS.format(devices=devices, runs=devices + 1)


@contextmanager
def opening_lock(home: Path) -> Iterator[None]:
    """Have one command at a time open the instance: two that make the tables of a new one together would fail.

    Raises:
        StorageError: the folder cannot be written.
    """
    lock = FileLock(home / ".opening.lock")
    try:
        lock.acquire()
    except OSError as error:
        raise _unwritable(home, error) from error
    try:
        yield
    finally:
        lock.release()


def _unwritable(home: Path, error: OSError) -> StorageError:
    kind = type(cannot_write(home, error))
    return kind(
        f"Dagster's folder {home} cannot be written ({error.strerror}); {SAFE}: make it writable or free some "
        "space, then run the same command again, or set DAGSTER_HOME to another folder."
    )


def follow_devices(default: Path, devices: int) -> None:
    """Have the settings let as many runs generate at once as there are devices, where nobody has edited them.

    Whoever opens the instance after this sees it; a UI that runs keeps what it began with.

    Raises:
        StorageError: the folder cannot be written.
    """
    settings = prepare_dagster_home(default, lambda: devices) / "dagster.yaml"
    try:
        found = settings.read_bytes().decode("utf-8", errors="replace")
        if found in {_settings(earlier) for earlier in _limits(found) - {devices}}:
            _write(settings, _settings(devices))
    except OSError as error:
        raise _unwritable(settings.parent, error) from error


def _limits(text: str) -> set[int]:
    return {int(number) for number in re.findall(r"default_limit: ([0-9]{1,4})\b", text)}


def _write(settings: Path, text: str) -> None:
    temporary = settings.with_name(f".dagster.yaml.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(settings)


def set_gpu_pool_limit(instance, devices: int) -> None:
    """Let as many generation steps run at once as there are devices."""
    instance.event_log_storage.set_concurrency_slots(GPU_POOL, devices)


def raise_gpu_pool_limit(instance, devices: int) -> None:
    """Let at least so many generation steps run at once.

    A step that finds no slot in the pool asks for one without pause, which takes a whole core from the others.
    """
    limits = {limit.name: limit.limit for limit in instance.event_log_storage.get_pool_limits()}
    if (limits.get(GPU_POOL) or 0) < devices:
        set_gpu_pool_limit(instance, devices)
