"""What a sweep says and does about cells whose subsets wait for what they are made of."""

from collections.abc import Sequence

from rich.console import Console

from backtracking_assets.assets.status import CellStatus
from backtracking_assets.reporting.formats import join_names, plural
from backtracking_assets.reporting.text import visible


def without_waiting(statuses: Sequence[CellStatus], console: Console) -> list[CellStatus]:
    """Those that wait for nothing; of the others, one sentence for each thing that is waited for is printed."""
    waiting: dict[tuple[str, str], list[CellStatus]] = {}
    for status in statuses:
        if status.state == "waiting":
            waiting.setdefault((status.reason, status.next), []).append(status)
    for (reason, remedy), found in waiting.items():
        subsets = join_names(dict.fromkeys(status.cell.layer_subset for status in found))
        said = f"Left out: {plural(len(found), 'cell')} of {subsets}, {reason}; {remedy}."
        console.print(visible(said), style="yellow", markup=False, soft_wrap=True, highlight=False)
    return [status for status in statuses if status.state != "waiting"]
