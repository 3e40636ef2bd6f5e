"""Several workers of one sweep, a process each: started, handed their work, heard, replaced when they die, ended."""

import os
import pickle
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from rich.console import Console

from backtracking_assets import errors
from backtracking_assets.assets.progress import Progress
from backtracking_assets.cli.bars import Bars
from backtracking_assets.cli.fork_server import CONTEXT
from backtracking_assets.cli.handing_out import HandingOut, Task
from backtracking_assets.cli.interrupts import SignalWatch
from backtracking_assets.cli.worker import Busy, Finished, Leased, Order, Refused, Said, Waiting, work
from backtracking_assets.errors import BacktrackingError

_POLL_SECONDS = 0.2
_STOP_SECONDS = 20.0
"""How long workers may take to end a step when they are told to stop."""
_MOST_DEAD_BEFORE_WORK = 2

OnFinished = Callable[[Task, Finished], bool]
"""Called for each cell or variant that is finished or given up; whether the others are to be done as well."""


@dataclass
class _Worker:
    number: int
    process: BaseProcess
    connection: Connection
    device: str | None = None
    task: Task | None = None


class Crew:
    """Workers on one order.

    Args:
        on_death: called when workers have ended otherwise than by themselves, their locks and leases free again.
    """

    def __init__(self, order: Order, size: int, console: Console, on_death: Callable[[], object]) -> None:
        self._packed = pickle.dumps(order)
        self._devices = order.devices
        self._console = console
        self._on_death = on_death
        self._dead_before_work = 0
        self._workers: list[_Worker] = []
        for number in range(size):
            self._start(number)

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._end(at_once=kind is not None)

    def run(self, left: HandingOut, bars: Bars, signals: SignalWatch, on_finished: OnFinished) -> None:
        """Have all that is left done, as far as `on_finished` wants it.

        Raises:
            BacktrackingError: a worker met what every other cell would meet as well, or none can be kept alive.
            KeyboardInterrupt: this process was told to stop.
        """
        while not left.is_done():
            signals.stop_if_signaled()
            self._hand_out(left, bars)
            for worker in self._with_news():
                ended = worker.process.exitcode is not None  # asked first: what it said before that is still there
                for said in _heard(worker):
                    if isinstance(said, Finished):
                        if not self._finished(worker, said, left, bars, on_finished):
                            return
                    else:
                        self._note(worker, said, left, bars)
                if ended and not self._buried(worker, left, bars, on_finished):
                    return

    def _start(self, number: int) -> None:
        ours, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(target=work, args=(theirs, self._packed, dict(os.environ)), daemon=True)
        try:
            process.start()
        except OSError as error:
            raise BacktrackingError(
                f"A worker process cannot be started ({error.strerror or error}); what is finished is safe: run the "
                "same command with --devices 1."
            ) from error
        theirs.close()
        self._workers.append(_Worker(number, process, ours))

    def _hand_out(self, left: HandingOut, bars: Bars) -> None:
        for worker in self._workers:
            if worker.device is None or worker.task is not None:
                continue
            task = left.next(time.monotonic())
            if task is None:
                bars.say("waits for the others", worker.number)
                continue
            with suppress(OSError):  # it has died, which is noted where it is heard
                worker.connection.send(task)
            worker.task = task
            bars.start(task.subject, worker.number)

    def _with_news(self) -> list[_Worker]:
        """Workers that have said something or died, waited for a moment."""
        ready = set(wait([w for one in self._workers for w in (one.connection, one.process.sentinel)], _POLL_SECONDS))
        news = [one for one in self._workers if one.connection in ready or one.process.sentinel in ready]
        for one in news:
            if one.process.sentinel in ready:
                one.process.join()
        return news

    def _note(self, worker: _Worker, said: Said, left: HandingOut, bars: Bars) -> None:
        match said:
            case Progress():
                bars.told(said, worker.number)
            case Leased():
                worker.device = said.device
                bars.on_device(said.device, worker.number)
            case Waiting():
                bars.say("waits for a device that another process has", worker.number)
                if all(one.device is None for one in self._workers):
                    names = " or ".join(self._devices)
                    self._console.print(f"Waiting for {names}, taken by other processes ({said.seconds:.0f} s so far).")
            case Busy():
                assert worker.task is not None
                left.busy(worker.task, time.monotonic())
                worker.task = None
                bars.say("other sweeps are at work on what is left", worker.number)
            case Refused():
                raise _error(said)
            case Finished():
                raise AssertionError("heard elsewhere")

    def _finished(self, worker: _Worker, said: Finished, left: HandingOut, bars: Bars, on_finished: OnFinished) -> bool:
        task, worker.task = worker.task, None
        assert task is not None
        done = left.finished(task, said.mark, failed=bool(said.failures))
        bars.finish(worker.number, advance=done)
        return not done or on_finished(task, said)

    def _buried(self, worker: _Worker, left: HandingOut, bars: Bars, on_finished: OnFinished) -> bool:
        """Replace a worker that has died; whether to go on."""
        self._workers.remove(worker)
        worker.connection.close()
        self._on_death()
        how, goes_on, task = _how_it_ended(worker.process.exitcode), True, worker.task
        if task is None:
            self._dead_before_work += 1
            if self._dead_before_work > _MOST_DEAD_BEFORE_WORK:
                raise BacktrackingError(
                    f"Workers of this sweep end before they have begun (the last one {how}); what is finished is safe: "
                    "free some memory, or run the same command with --devices 1."
                )
        elif left.died(task):
            self._say(f"The worker at {task.subject} {how}; another one goes on from its last finished chunk.")
        else:
            bars.finish(worker.number)
            sentence = (
                f"{task.subject}: its worker died twice (the last one {how}). Every finished chunk is safe: free some "
                "memory, or use fewer devices (--devices), and run the same command again, which goes on from there."
            )
            goes_on = on_finished(task, Finished(task.mark or "", (sentence,), None))
        if goes_on and not left.is_done():
            self._start(worker.number)
        return goes_on

    def _say(self, sentence: str) -> None:
        self._console.print(sentence, style="yellow", markup=False, soft_wrap=True, highlight=False)

    def _end(self, *, at_once: bool) -> None:
        """Have the workers end, by themselves where they are idle; kill those that do not."""
        try:
            for worker in self._workers:
                if worker.device is None or worker.task is not None or at_once:
                    worker.process.terminate()
                else:
                    with suppress(OSError):
                        worker.connection.send(None)
            deadline = time.monotonic() + _STOP_SECONDS
            while any(w.process.exitcode is None for w in self._workers) and time.monotonic() < deadline:
                for worker in self._with_news():
                    _heard(worker)  # a full pipe would keep it from ending
                self._workers = [w for w in self._workers if w.process.exitcode is None]
        finally:
            died = [worker for worker in self._workers if worker.process.exitcode is None]
            for worker in died:
                worker.process.kill()
                worker.process.join()
            self._workers = []
            self._on_death()


def _heard(worker: _Worker) -> list[Said]:
    """All that a worker has said since, also if it has died meanwhile."""
    found: list[Said] = []
    with suppress(EOFError, OSError):
        while worker.connection.poll():
            found.append(worker.connection.recv())
    return found


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with code {code}"


def _error(said: Refused) -> BacktrackingError:
    kind = getattr(errors, said.kind, BacktrackingError)
    return BacktrackingError(said.message) if kind is errors.WaitingError else kind(said.message)
