"""Progress of cells or variants, and of the completions of each one at work: bars in a terminal, lines in a log."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from backtracking_assets.assets.progress import Progress as Generated
from backtracking_assets.assets.progress import listening
from backtracking_assets.records import Subject

_LINE_EVERY_SECONDS = 60.0
"""Where there is no terminal, a cell or variant at work is told of about this often."""


class Bars:
    """A bar for all cells or variants, and one for the completions of each that is at work: one a worker.

    Where there is no terminal to draw bars in, a line for each that is finished, and one a minute.
    """

    def __init__(
        self, bars: Progress, console: Console, kind: str, count: int, completions: int, workers: int = 1
    ) -> None:
        self._bars = bars
        self._console = console
        self._count = count
        self._finished = 0
        self._started = self._told = time.monotonic()
        self._names = [""] * workers
        self._kind = kind
        self._completions = completions
        self._all: TaskID = bars.add_task(kind, total=count, note="")
        self._ones: list[TaskID] = [bars.add_task("", total=completions, note="") for _ in range(workers)]
        self._rates = [0.0] * workers
        self._devices = [""] * workers

    def on_device(self, device: str, worker: int) -> None:
        """Have a worker's bar begin with its device."""
        self._devices[worker] = f"{device} "
        self.say("", worker)

    def start(self, subject: Subject, worker: int = 0) -> None:
        self._bars.reset(self._ones[worker], total=self._completions, note="")
        self._names[worker] = str(subject)
        self.say(str(subject), worker)

    def waiting(self) -> None:
        self.say(f"other sweeps are at work on the {self._kind} that are left")

    def say(self, text: str, worker: int = 0) -> None:
        """Have a worker's bar say what it does."""
        self._bars.update(self._ones[worker], description=self._devices[worker] + escape(text), note="")

    def told(self, progress: Generated, worker: int = 0) -> None:
        rate = progress.generated / progress.seconds if progress.seconds else 0.0
        note = f"{rate:.1f} completions/s" if rate else ""
        if progress.step:
            note += f" token {progress.step}, {progress.n_open} open"
        self._bars.update(self._ones[worker], completed=progress.done, total=progress.total, note=note)
        self._rates[worker] = rate or self._rates[worker]
        if len(self._rates) > 1:
            self._bars.update(self._all, note=f"{sum(self._rates):.1f} completions/s")
        if time.monotonic() - self._told >= _LINE_EVERY_SECONDS:
            self._line(f"{self._names[worker]}: {progress.done} of {progress.total} completions {note}".rstrip())

    def finish(self, worker: int = 0, *, advance: bool = True) -> None:
        """Fill a worker's bar; with `advance`, count its cell or variant as finished."""
        self._bars.update(self._ones[worker], completed=self._bars.tasks[self._ones[worker]].total or 0)
        if not advance:
            return
        self._bars.advance(self._all)
        self._finished += 1
        spent = time.monotonic() - self._started
        left = spent / self._finished * (self._count - self._finished)
        rate = f", {sum(self._rates):.1f} completions/s" if any(self._rates) else ""
        self._line(
            f"{self._names[worker]}: {self._finished} of {self._count} {self._kind}{rate}, {_minutes(left)} left"
        )

    def _line(self, text: str) -> None:
        """Print a line, unless there is a terminal that shows the bars."""
        if self._console.is_terminal:
            return
        self._told = time.monotonic()
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


@contextmanager
def progress_bars(
    console: Console, kind: str, count: int, completions: int, devices: Sequence[str], workers: int = 1
) -> Iterator[Bars]:
    """Bars that follow what this process generates, under a line that says on which devices.

    Args:
        kind: `cells` or `variants`.
        count: how many of them.
        completions: of each.
        devices: empty where nothing is generated.
        workers: how many work at once.
    """
    console.print("Nothing to generate." if not devices else f"Generating on {' and '.join(devices)}.")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        shown = Bars(bars, console, kind, count, completions, workers)
        with listening(shown.told):
            yield shown
