"""Which signal stopped a command, though Dagster handles signals itself while a step runs."""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class SignalWatch:
    """Notes every SIGINT and SIGTERM that the process receives, whoever handles it."""

    def __init__(self, numbers: socket.socket) -> None:
        self._numbers = numbers
        self._last: int | None = None

    def stop_if_signaled(self) -> None:
        """Raise KeyboardInterrupt if a signal came, also one whose own exception was lost in a callback."""
        if self._last_signal() is not None:
            raise KeyboardInterrupt

    def exit_code(self) -> int:
        """128 plus the number of the last signal, as shells count: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + (self._last_signal() or signal.SIGINT)

    def _last_signal(self) -> int | None:
        with suppress(BlockingIOError):
            stopping = [number for number in self._numbers.recv(4096) if number in (signal.SIGINT, signal.SIGTERM)]
            self._last = stopping[-1] if stopping else self._last
        return self._last


@contextmanager
def watching_signals() -> Iterator[SignalWatch]:
    """Turn SIGTERM into a KeyboardInterrupt like SIGINT, and note both. For the main thread."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # Dagster replaces handlers during a step, but not the wake-up descriptor, to which Python writes each signal.
    receiving, sending = socket.socketpair()
    receiving.setblocking(False)
    sending.setblocking(False)
    earlier_descriptor = signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
    earlier_handler = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield SignalWatch(receiving)
    finally:
        signal.signal(signal.SIGTERM, earlier_handler)
        signal.set_wakeup_fd(earlier_descriptor)
        receiving.close()
        sending.close()
