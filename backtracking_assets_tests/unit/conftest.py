"""Stores that tests of several modules begin with."""

import shutil
from pathlib import Path

import pytest

from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets_tests.unit.storage_samples import ABLATED
from backtracking_assets_tests.unit.study_samples import measure


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one ablated cell of two problems and two samples, and everything that follows from them."""
    layout = StoreLayout(tmp_path_factory.mktemp("measured"))
    measure(layout, ABLATED)
    return layout.root


@pytest.fixture
def study(measured: Path, tmp_path: Path) -> StoreLayout:
    """A copy of `measured` to change."""
    return StoreLayout(Path(shutil.copytree(measured, tmp_path / "study")))
