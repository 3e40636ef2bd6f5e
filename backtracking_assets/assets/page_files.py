"""Files of the pages, and the version that is stamped on each."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.conditions import canonical_json
from backtracking_assets.experiment import scale_key
from backtracking_assets.records import Cell

_STAMP = "<!-- version {version} -->"
_STAMPED = re.compile(rb"<!-- version ([0-9a-f]+) -->")
_STAMP_BYTES = 200
_CELLS = "<!-- cells {cells} -->"
_FIND_CELLS = re.compile(r"<!-- cells (\{[^<>]*\}) -->\s*\Z")


def report_path(opened: OpenExperiment, cell: Cell) -> Path:
    """Where a cell's page stands."""
    return opened.layout.reports / "cells" / cell.layer_subset / f"scale_{scale_key(cell.scale)}.html"


def sweep_report_path(opened: OpenExperiment) -> Path:
    """Where the sweep's page stands."""
    return opened.layout.reports / "phase2_report.html"


def stamped(page: str, version: str, cells: Mapping[str, str] | None = None) -> str:
    """The page with its version in a comment after the document type, and the cells that it shows in one at its end.

    `cells` gives the version of each cell's figures by its name.
    """
    doctype, separator, rest = page.partition("\n")
    marked = f"{doctype}{separator}{_STAMP.format(version=version)}\n{rest}"
    return marked if cells is None else f"{marked.rstrip()}\n{_CELLS.format(cells=canonical_json(dict(cells)))}\n"


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


def cells_shown(path: Path) -> dict[str, str] | None:
    """The cells that a page says it was made from; none where it does not say, None where there is no page."""
    try:
        page = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = _FIND_CELLS.search(page)
    try:
        cells = json.loads(found[1]) if found else {}
    except ValueError:
        return {}
    return {name: str(version) for name, version in cells.items()}
