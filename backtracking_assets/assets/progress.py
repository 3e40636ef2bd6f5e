"""Progress of generation, told to whoever listens in this process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from backtracking_assets.records import Subject


@dataclass(frozen=True)
class Progress:
    """How far the generation of a condition is."""

    subject: Subject
    """What it is generated for."""
    done: int
    """Completions that are durable."""
    total: int
    generated: int
    """Completions made by this process."""
    tokens: int
    """Tokens in them."""
    seconds: float
    """Seconds of generation they took."""
    step: int = 0
    """Decode steps of the chunk at work; 0 between chunks."""
    n_open: int = 0
    """Completions of that chunk that have not ended."""

    def __str__(self) -> str:
        text = f"{self.done} of {self.total} completions"
        if self.seconds:
            rate = self.generated / self.seconds
            text += f", {rate:.1f} completions and {self.tokens / self.seconds:.0f} tokens a second"
            text += f", {(self.total - self.done) / rate:.0f} s left" if rate else ""
        return text


OnProgress = Callable[[Progress], None]

_listeners: list[OnProgress] = []


@contextmanager
def listening(listener: OnProgress) -> Iterator[None]:
    """Have the progress of every condition that this process generates within the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def tell(progress: Progress) -> None:
    """Tell all listeners."""
    for listener in _listeners:
        listener(progress)


def logged(log: Callable[[str], None]) -> OnProgress:
    """Tell all listeners, and log what is reached between two chunks."""

    def report(progress: Progress) -> None:
        if progress.step == 0:  # an event each second would fill Dagster's log
            log(str(progress))
        tell(progress)

    return report
