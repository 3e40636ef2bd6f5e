"""A bound on the CPU time of what reads input from outside; it does not depend on how busy the machine is."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS_A_CASE = 20.0
"""CPU seconds that one adversarial input may take: ten times what the slowest takes on one core."""


class TooLongError(BaseException):
    """Not caught by what catches exceptions."""


@contextmanager
def bounded(seconds: float = SECONDS_A_CASE) -> Iterator[None]:
    """Fail what takes longer, also where it would never end. For the main thread."""

    def ring(number: int, frame: object) -> None:
        raise TooLongError(f"more than {seconds:g} CPU seconds")

    earlier = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    started = time.process_time()
    try:
        yield
        # Time in the kernel, as of memory that is asked for, is not the timer's.
        assert time.process_time() - started < 2 * seconds
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, earlier)
