"""A process that imports what workers of a sweep need, beside the sweep itself, and from which they are forked."""

import multiprocessing
import multiprocessing.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver

CONTEXT = multiprocessing.get_context("forkserver")

_PRELOADED = (
    "backtracking_assets.cli.worker",
    "backtracking_assets.models.generation",
    "backtracking_assets.models.loading",
    # Imported late by what uses them.
    "math_verify",
    "sqlalchemy.dialects.sqlite",
)


@contextmanager
def forking_workers() -> Iterator[None]:
    """Have workers started from `CONTEXT` within the block take no time to import anything.

    The process that they are forked from touches no GPU: one that has cannot be forked. It ends with this process.
    """
    CONTEXT.set_forkserver_preload(list(_PRELOADED))
    forkserver.ensure_running()
    try:
        yield
    finally:
        # Commands end without those who would remove the folder of the server's socket. A child's is its parent's.
        if multiprocessing.parent_process() is None:
            shutil.rmtree(multiprocessing.util.get_temp_dir(), ignore_errors=True)
