"""A worker of `sweep`: a process that holds one device and does what it is handed, until it is told to end.

It is forked from a server that has imported everything and touched no GPU. It dies with the sweep that started it, and
whatever it held is free at once when it dies, however it dies.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import NoReturn

import dagster as dg

from backtracking_assets.assets.checkpoint_watch import holding_checkpoint
from backtracking_assets.assets.loaded import prompts
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.progress import Progress, listening
from backtracking_assets.assets.pushing import leaving_push_to_parent
from backtracking_assets.assets.tracking import tracking_warning
from backtracking_assets.cli.handing_out import Task
from backtracking_assets.cli.instance import join_instance
from backtracking_assets.cli.interrupts import SignalWatch, watching_signals
from backtracking_assets.cli.runner import Runner
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.execution.devices import device_locks_dir, leased_device
from backtracking_assets.execution.instance_errors import instance_error
from backtracking_assets.experiment import Experiment
from backtracking_assets.models.checkpoint import Checkpoint
from backtracking_assets.redaction import redacted
from backtracking_assets.storage.turns import turn_if_free

EXIT_REFUSED = 2


@dataclass(frozen=True)
class Order:
    """What a worker works on, and where."""

    experiment: Experiment
    checkpoint: Checkpoint
    """As the sweep began with it; another content is refused."""
    devices: tuple[str, ...]
    """Of which the worker takes one."""


@dataclass(frozen=True)
class Waiting:
    """All devices are taken by other processes."""

    seconds: float


@dataclass(frozen=True)
class Leased:
    """The worker holds a device and can be handed something."""

    device: str


@dataclass(frozen=True)
class Busy:
    """Another sweep is at work on what the worker was handed."""


@dataclass(frozen=True)
class Finished:
    """What the worker was handed is done."""

    mark: str
    failures: tuple[str, ...]
    warning: str | None


@dataclass(frozen=True)
class Refused:
    """An error that concerns every cell; the worker ends."""

    kind: str
    message: str


Said = Waiting | Leased | Busy | Finished | Refused | Progress


def work(connection: Connection, packed_order: bytes, environment: Mapping[str, str]) -> NoReturn:
    """Be a worker: take a device, say so, do each `Task` that comes, end when None comes."""
    # Ctrl-C in the terminal reaches the sweep alone, which then ends its workers.
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.dup2(2, 1)
    os.environ.clear()
    os.environ.update(environment)
    code = 1
    try:
        code = _work(connection, pickle.loads(packed_order))
    except KeyboardInterrupt:
        code = 128 + signal.SIGTERM
    except (EOFError, BrokenPipeError):
        pass  # the sweep is gone
    except Exception as error:
        sys.stderr.write(redacted("".join(traceback.format_exception(error))))
        sys.stderr.flush()
    os._exit(code)


def end_with_parent() -> None:
    """End this process in the moment in which the sweep ends, also where that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(connection: Connection, order: Order) -> int:
    with watching_signals() as signals, holding_checkpoint(order.checkpoint), leaving_push_to_parent():
        try:
            prompts(OpenExperiment(order.experiment, download=False))
            with (
                join_instance() as instance,
                leased_device(
                    order.devices, device_locks_dir(), on_wait=lambda seconds: connection.send(Waiting(seconds))
                ) as device,
            ):
                connection.send(Leased(device))
                while (task := connection.recv()) is not None:
                    connection.send(_done(task, order.experiment, instance, device, connection, signals))
        except BacktrackingError as error:
            connection.send(Refused(type(error).__name__, str(error)))
            return EXIT_REFUSED
        except Exception as error:
            readable = instance_error(error)
            if readable is None:
                raise
            connection.send(Refused(type(readable).__name__, str(readable)))
            return EXIT_REFUSED
    return 0


def _done(
    task: Task,
    experiment: Experiment,
    instance: dg.DagsterInstance,
    device: str,
    connection: Connection,
    signals: SignalWatch,
) -> Finished | Busy:
    def tell(progress: Progress) -> None:
        signals.stop_if_signaled()
        connection.send(progress)

    runner = Runner(experiment, instance)
    layout = OpenExperiment(experiment, download=False).layout
    with turn_if_free(layout, task.subject, task.mark) as turn:
        if turn is None:
            return Busy()
        with listening(tell):
            runner.do(task.subject, device, task.first, task.last, look_again=turn.visited)
        signals.stop_if_signaled()
    return Finished(turn.mark, tuple(runner.failures), tracking_warning())
