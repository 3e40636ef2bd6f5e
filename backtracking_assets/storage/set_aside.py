"""Moving files that cannot be used out of the way, with the reason beside them. Nothing is deleted."""

import itertools
import logging
from pathlib import Path

from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.unwritable import SAFE, cannot_write

logger = logging.getLogger(__name__)


def set_aside(layout: StoreLayout, path: Path, reason: str) -> Path:
    """Move a file of the store into `set_aside/` and write why into `<name>.reason.txt`; its new path.

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
        path.rename(target)
    except OSError as error:
        kind = type(cannot_write(path, error))
        raise kind(
            f"{path} cannot be used ({reason}) and cannot be moved to {layout.set_aside}: {error.strerror}; {SAFE}: "
            "free some space or make it writable, then run the same command again."
        ) from error
    logger.warning("Set aside %s: %s", target, reason)
    return target
