"""Progress bars in the terminal: cells or variants, and the completions of the one at work."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from backtracking_assets.assets.progress import Progress as Generated
from backtracking_assets.assets.progress import listening
from backtracking_assets.records import Subject


class Bars:
    """Two progress bars: all cells or variants, and the completions of the one at work."""

    def __init__(self, bars: Progress, kind: str, count: int, completions: int) -> None:
        self._bars = bars
        self._kind = kind
        self._completions = completions
        self._all: TaskID = bars.add_task(kind, total=count, note="")
        self._one: TaskID = bars.add_task("", total=completions, note="")

    def start(self, subject: Subject) -> None:
        self._bars.reset(self._one, description=escape(str(subject)), total=self._completions, note="")

    def waiting(self) -> None:
        self._bars.update(self._one, description=f"other sweeps are at work on the {self._kind} that are left", note="")

    def told(self, progress: Generated) -> None:
        note = f"{progress.generated / progress.seconds:.1f} completions/s" if progress.seconds else ""
        if progress.step:
            note += f" token {progress.step}, {progress.n_open} open"
        self._bars.update(self._one, completed=progress.done, total=progress.total, note=note)

    def finish(self) -> None:
        self._bars.update(self._one, completed=self._bars.tasks[1].total or 0)
        self._bars.advance(self._all)


@contextmanager
def progress_bars(console: Console, kind: str, count: int, completions: int, device: str | None) -> Iterator[Bars]:
    """Bars that follow what this process generates, under a line that says on what device.

    Args:
        kind: `cells` or `variants`.
        count: how many of them.
        completions: of each.
    """
    console.print("Nothing to generate." if device is None else f"Generating on {device}.")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console) as bars:
        shown = Bars(bars, kind, count, completions)
        with listening(shown.told):
            yield shown
