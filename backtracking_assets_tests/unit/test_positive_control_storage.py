"""The positive control is stored whole or not at all."""

from pathlib import Path

import pyarrow as pa
import pytest

from backtracking_assets.analysis.positive_control import judged_rankings, ranked_components
from backtracking_assets.errors import StorageError
from backtracking_assets.storage import queries
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.positive_control_commits import write_positive_control
from backtracking_assets_tests.unit.positive_control_samples import FIXED, GOOD, MARGIN, STATISTICS, read_made_truth


@pytest.fixture
def layout(tmp_path: Path) -> StoreLayout:
    made = StoreLayout(tmp_path / "store")
    made.prepare()
    return made


@pytest.fixture
def tables(tmp_path: Path) -> tuple[pa.Table, pa.Table]:
    truth = read_made_truth(tmp_path)
    return (
        ranked_components([GOOD], truth, MARGIN, FIXED),
        judged_rankings([GOOD], truth, MARGIN, STATISTICS, FIXED),
    )


def test_a_second_writing_replaces_the_first(layout: StoreLayout, tables: tuple[pa.Table, pa.Table]) -> None:
    components, figures = tables
    for _ in range(2):
        write_positive_control(layout, components, figures)
    assert queries.positive_control_components(layout).num_rows == components.num_rows
    assert queries.positive_control_figures(layout).num_rows == figures.num_rows


def test_what_is_empty_or_of_two_computations_changes_nothing(
    layout: StoreLayout, tables: tuple[pa.Table, pa.Table]
) -> None:
    components, figures = tables
    write_positive_control(layout, components, figures)
    with pytest.raises(StorageError, match="an empty result is an error"):
        write_positive_control(layout, components, figures.slice(0, 0))
    place = components.column_names.index("control_digest")
    other = components.set_column(place, "control_digest", pa.array(["e" * 64] * components.num_rows))
    with pytest.raises(StorageError, match="one control_digest; 2 were given"):
        write_positive_control(layout, other, figures)
    assert set(queries.positive_control_components(layout)["control_digest"].to_pylist()) == {"d" * 64}
