"""Moving files that cannot be used out of the way, with the reason beside them. Nothing is deleted."""

import itertools
import logging
import os
import shutil
from pathlib import Path

from backtracking_assets.storage.durable import flush
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.unwritable import SAFE, cannot_write

logger = logging.getLogger(__name__)


def set_aside(layout: StoreLayout, path: Path, reason: str, *, stay: bool = False) -> Path:
    """Move a file of the store into `set_aside/` and write why into `<name>.reason.txt`; its new path.

    With `stay`, the file also stays where it is: for one whose place shall not be empty before another file takes it.

    Raises:
        StorageError: the file cannot be moved.
    """
    name = "-".join(path.relative_to(layout.root).parts)
    try:
        layout.set_aside.mkdir(parents=True, exist_ok=True)
        candidates = (layout.set_aside / (name if n == 1 else f"{name}.{n}") for n in itertools.count(1))
        target = next(candidate for candidate in candidates if not candidate.exists())
        # The reason first: on a full disk the file stays where it is, to be set aside by the next run.
        target.with_name(f"{target.name}.reason.txt").write_text(f"{reason}\n", encoding="utf-8")
        if stay:
            _link(path, target)
        else:
            path.rename(target)
    except OSError as error:
        kind = type(cannot_write(path, error))
        raise kind(
            f"{path} cannot be used ({reason}) and cannot be moved to {layout.set_aside}: {error.strerror}; {SAFE}: "
            "free some space or make it writable, then run the same command again."
        ) from error
    logger.warning("Set aside %s: %s", target, reason)
    return target


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # a file system without hard links
        shutil.copy2(path, target)
        flush(target)
    flush(target.parent)
