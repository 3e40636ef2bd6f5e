"""Files of the pages, and the version that is stamped on each."""

import re
from pathlib import Path

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.experiment import scale_key
from backtracking_assets.records import Cell

_STAMP = "<!-- version {version} -->"
_STAMPED = re.compile(rb"<!-- version ([0-9a-f]+) -->")
_STAMP_BYTES = 200


def report_path(opened: OpenExperiment, cell: Cell) -> Path:
    """Where a cell's page stands."""
    return opened.layout.reports / "cells" / cell.layer_subset / f"scale_{scale_key(cell.scale)}.html"


def sweep_report_path(opened: OpenExperiment) -> Path:
    """Where the sweep's page stands."""
    return opened.layout.reports / "phase2_report.html"


def stamped(page: str, version: str) -> str:
    """The page with its version in a comment after the document type."""
    doctype, separator, rest = page.partition("\n")
    return f"{doctype}{separator}{_STAMP.format(version=version)}\n{rest}"


def has_version(path: Path, version: str) -> bool:
    """Whether a page is there and carries this version."""
    return page_version(path) == version


def page_version(path: Path) -> str | None:
    """The version that is stamped on a page; None where there is no page, or none that is stamped."""
    try:
        with path.open("rb") as file:
            found = _STAMPED.search(file.read(_STAMP_BYTES))
    except OSError:
        return None
    return None if found is None else found[1].decode()
