"""The transaction that writes the positive control: both of its tables, or none."""

import pyarrow as pa

from backtracking_assets.storage.database import DEFAULT_WAIT
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.replacing import replace_tables


def write_positive_control(
    layout: StoreLayout, components: pa.Table, figures: pa.Table, *, wait: float = DEFAULT_WAIT
) -> None:
    """Replace the positive control.

    Raises:
        StorageError: a table is empty, or the two are not of one computation.
    """
    tables = {"positive_control_components": components, "positive_control_figures": figures}
    replace_tables(layout, "a positive control", tables, one=["control_digest"], wait=wait)
