"""Which cell or variant the next free worker is handed, so that nothing is done twice and no device waits for another.

A condition is begun by the first of the cells that share it, in the order of the plan; the others link what that one
makes. Until the baseline is there, other cells are only generated: what comes after that shows them beside it.
"""

from bisect import insort
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from backtracking_assets.plan import is_baseline
from backtracking_assets.records import Subject

_BUSY_SECONDS = 0.5
"""How long a cell that another sweep works on is left alone before it is tried again."""


@dataclass(frozen=True)
class Task:
    """Assets of one cell or variant, from `first` to `last`."""

    place: int
    """In the order of the plan."""
    subject: Subject
    first: str
    mark: str | None
    """The mark of the last visit before it was looked up what is to be done."""
    last: str | None = None
    """None: all that follow."""


class HandingOut:
    """What is left to be handed out, and what is at work.

    Args:
        condition_of: the fingerprint of a cell's or a variant's condition.
    """

    def __init__(self, tasks: Sequence[Task], condition_of: Callable[[Subject], str]) -> None:
        self._left = sorted(tasks, key=_place)
        self._at_work: list[Task] = []
        self._condition = {task.subject: condition_of(task.subject) for task in tasks}
        self._made: set[str] = set()
        self._busy_until: dict[Subject, float] = {}
        self._deaths: Counter[Subject] = Counter()
        self._baseline_is_there = not any(is_baseline(task.subject) for task in tasks)

    @property
    def n_unfinished(self) -> int:
        """Cells or variants that are not finished, those at work included."""
        return len(self._left) + len(self._at_work)

    def is_done(self) -> bool:
        """Whether nothing is left and nothing at work."""
        return not self._left and not self._at_work

    def next(self, now: float) -> Task | None:
        """What a free worker does now; None where it must wait for what others do.

        Args:
            now: seconds of a clock that only goes forward.
        """
        begun = {self._condition[task.subject] for task in self._at_work} - self._made
        for task in self._left:
            condition = self._condition[task.subject]
            if condition in begun:
                continue
            if condition not in self._made:
                begun.add(condition)  # whoever comes later in the plan links it, also where this one is not free now
            ready = self._as_far_as_it_may_go(task)
            if ready is None or self._busy_until.get(task.subject, now) > now:
                continue
            self._left.remove(task)
            self._at_work.append(ready)
            return ready
        return None

    def _as_far_as_it_may_go(self, task: Task) -> Task | None:
        if self._baseline_is_there or is_baseline(task.subject):
            return task
        return replace(task, last="generations") if task.first == "generations" else None

    def finished(self, task: Task, mark: str, *, failed: bool) -> bool:
        """Note that a task has ended; whether its cell or variant is finished with that, well or not.

        Args:
            mark: what the worker left at the cell, by which a later visit of another sweep is noticed.
        """
        self._at_work.remove(task)
        self._made.add(self._condition[task.subject])
        if is_baseline(task.subject) and not failed:
            self._baseline_is_there = True
        if failed or task.last is None:
            return True
        insort(self._left, replace(task, first="detections", last=None, mark=mark), key=_place)
        return False

    def busy(self, task: Task, now: float) -> None:
        """Note that another sweep works on this one; it is tried again later."""
        self._back(task)
        self._busy_until[task.subject] = now + _BUSY_SECONDS

    def died(self, task: Task) -> bool:
        """Note that the worker at this task died; whether the task is handed out again, which is done once."""
        self._deaths[task.subject] += 1
        again = self._deaths[task.subject] == 1
        if again:
            self._back(task)
        else:
            self._at_work.remove(task)
        return again

    def _back(self, task: Task) -> None:
        self._at_work.remove(task)
        insort(self._left, replace(task, last=None), key=_place)


def _place(task: Task) -> int:
    return task.place
