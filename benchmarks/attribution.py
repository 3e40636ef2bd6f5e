"""Where a process spends its time: the main thread's stack, looked at many times a second and given to a part.

Looking costs next to nothing, where counting every call would make code of many small calls look dearer than it is.
"""

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Self

_EVERY_SECONDS = 0.004

Rule = tuple[str, str | None, str]
"""Part of a file's path, the name of a function there or None for any, and the part of the work that it belongs to."""


class Attribution:
    """Seconds of processor time by part of the work, while it is entered and `within` is on the main thread's stack.

    The innermost frame for which there is a rule decides; what has none is given to `other`.
    """

    def __init__(self, rules: Sequence[Rule], within: tuple[str, str], other: str) -> None:
        self._rules = rules
        self._within = within
        self._other = other
        self._known: dict[tuple[str, str], str | None] = {}
        self._stop = threading.Event()
        self._main = threading.main_thread().ident
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.functions: defaultdict[str, float] = defaultdict(float)
        """Seconds by part, file and function of the frame that decided."""
        self.wall = 0.0

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._look, name="attribution", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        assert self._main is not None
        own, spent, clock = time.thread_time(), time.process_time(), time.perf_counter()
        while not self._stop.wait(_EVERY_SECONDS):
            frame = sys._current_frames().get(self._main)
            part = None if frame is None else self._part(frame)
            now_own, now_spent, now_clock = time.thread_time(), time.process_time(), time.perf_counter()
            if part is not None:
                self.seconds[part[0]] += max((now_spent - spent) - (now_own - own), 0.0)
                self.functions["  ".join(part)] += max((now_spent - spent) - (now_own - own), 0.0)
                self.wall += now_clock - clock
            own, spent, clock = now_own, now_spent, now_clock

    def _part(self, frame: FrameType) -> tuple[str, str] | None:
        found: tuple[str, str] | None = None
        current: FrameType | None = frame
        while current is not None:
            name, function = current.f_code.co_filename, current.f_code.co_name
            if found is None and (part := self._of(name, function)) is not None:
                found = part, f"{'/'.join(name.rsplit('/', 2)[-2:])} {function}"
            if function == self._within[1] and name.endswith(self._within[0]):
                return found or (self._other, "")
            current = current.f_back
        return None

    def _of(self, name: str, function: str) -> str | None:
        key = (name, function)
        if key not in self._known:
            self._known[key] = next((p for path, f, p in self._rules if path in name and f in (None, function)), None)
        return self._known[key]


def shares(seconds: Mapping[str, float], count: int) -> dict[str, float]:
    """Seconds for each of `count`, the largest first."""
    return {part: value / count for part, value in sorted(seconds.items(), key=lambda each: -each[1])}
