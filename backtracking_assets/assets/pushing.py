"""Pushing an experiment's results: once, and by itself after each finished cell."""

import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from backtracking_assets.assets.provenance import commit, versions
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment import Experiment
from backtracking_assets.places import PROJECT_ROOT
from backtracking_assets.storage.bundles.location import open_location
from backtracking_assets.storage.bundles.manifest import EXPERIMENT_FILE, LOCK_FILE, Origin
from backtracking_assets.storage.bundles.push import OnTransfer, Pushed, push
from backtracking_assets.storage.layout import StoreLayout

PUSH_URL = "BACKTRACKING_PUSH_URL"
"""Environment variable with the URL that finished cells are pushed to."""

MOST_WAITING = 60.0
"""Seconds that a sweep or a run of the UI waits at its end for a push that is under way."""

Log = Callable[[str], None]


def push_results(experiment: Experiment, url: str, on_transfer: OnTransfer = lambda moved, total: None) -> Pushed:
    """Push an experiment's results to a URL.

    Raises:
        BundleError: the URL cannot be used, or the bundle there holds what this store lacks.
        StorageError: the store cannot be read.
    """
    return push(
        StoreLayout(experiment.outputs_dir()),
        open_location(url, experiment.name),
        experiment=experiment.name,
        documents=_documents(experiment),
        made=Origin(
            host=socket.gethostname(),
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=versions(),
            commit=commit(),
        ),
        on_transfer=on_transfer,
    )


def push_url() -> str | None:
    """The URL that finished cells are pushed to; None where none is set."""
    return os.environ.get(PUSH_URL) or None


class BackgroundPush:
    """Pushes in a thread of its own, so that no cell waits for it. Cells that finish meanwhile go together."""

    def __init__(self, experiment: Experiment, url: str) -> None:
        self._experiment = experiment
        self._url = url
        self._asked = 0
        self._done = 0
        self._changed = threading.Condition()
        self._failure: str | None = None
        # A daemon: the process may end at any moment of a push, which leaves the earlier bundle.
        threading.Thread(target=self._work, name="push", daemon=True).start()

    def ask(self) -> None:
        """Have what is finished by now pushed soon."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()

    def warning(self) -> str | None:
        """What went wrong since the last call, in one sentence; None where nothing did."""
        with self._changed:
            failure, self._failure = self._failure, None
            return failure

    def finish(self, seconds: float = MOST_WAITING) -> str | None:
        """Wait for what was asked for, for a bounded time; what went wrong, or that it did not end in time."""
        with self._changed:
            ended = self._changed.wait_for(lambda: self._done == self._asked, seconds)
        if ended:
            return self.warning()
        return (
            f"The last push did not end within {seconds:.0f} s and was given up; the bundle is as it was before it. "
            f"backtracking push does the rest."
        )

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._done < self._asked)
                asked = self._asked
            failure = self._push()
            with self._changed:
                self._failure = failure
                self._done = asked
                self._changed.notify_all()

    def _push(self) -> str | None:
        try:
            push_results(self._experiment, self._url)
        except BacktrackingError as error:
            return f"Results were not pushed; the next push catches up. {error}"
        except Exception as error:  # a sweep of days does not end for it
            return f"Results were not pushed; the next push catches up. ({type(error).__name__})"
        return None


class _ByParent:
    """Stands for the push of the process that handed a cell out, which asks for one when it hears that it is done."""

    def ask(self) -> None:
        pass


_active: list[BackgroundPush | _ByParent] = []


@contextmanager
def pushing_cells(experiment: Experiment, url: str | None) -> Iterator[BackgroundPush | None]:
    """Have every cell that this process finishes within the block pushed in the background, where there is a URL.

    Raises:
        BundleError: the URL cannot be used.
    """
    if url is None:
        yield None
        return
    open_location(url, experiment.name)
    background = BackgroundPush(experiment, url)
    _active.append(background)
    try:
        yield background
    finally:
        _active.remove(background)


@contextmanager
def leaving_push_to_parent() -> Iterator[None]:
    """Have no cell pushed that this process finishes within the block: the process that handed it out does that."""
    by_parent = _ByParent()
    _active.append(by_parent)
    try:
        yield
    finally:
        _active.remove(by_parent)


def cell_finished(experiment: Experiment, log: Log) -> None:
    """Have a finished cell pushed: in the background of the sweep that made it, or before a run of the UI ends."""
    if _active:
        _active[-1].ask()
        return
    url = push_url()
    if url is None:
        return
    background = BackgroundPush(experiment, url)
    background.ask()
    if (warning := background.finish()) is not None:
        log(warning)


def _documents(experiment: Experiment) -> Mapping[str, Path]:
    found = {EXPERIMENT_FILE: experiment.source, LOCK_FILE: PROJECT_ROOT / "constraints.txt"}
    return {name: path for name, path in found.items() if path.is_file()}
