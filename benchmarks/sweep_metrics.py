"""How long metrics and report of a whole sweep take, and whether they grow with the number of cells alone.

    OPENBLAS_NUM_THREADS=1 python benchmarks/sweep_metrics.py
    OPENBLAS_NUM_THREADS=1 python benchmarks/sweep_metrics.py --cells 56 --json

Each size is a store of made-up chains (`made_up_sweep.py`) of 125 problems x 4 samples, made once and kept with
`--folder`. Seconds are of the processor, so that another load of the machine counts little; the share of figures is
that of drawing them within the report.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from made_up_sweep import make_sweep, opened_in
from spread import Spread, options, spread, tell, where

from backtracking_assets.analysis.metrics import cell_metrics
from backtracking_assets.assets.comparing import compare_plan
from backtracking_assets.assets.contents import sweep_report
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.stored_cells import current_baseline
from backtracking_assets.experiment import Experiment
from backtracking_assets.reporting import page, style
from backtracking_assets.reporting.sweep_report import render_sweep_report
from backtracking_assets.storage.database import writing

SIZES = (56, 500, 2000)


@dataclass(frozen=True)
class Measured:
    """Processor seconds at one size."""

    cells: int
    conditions: int
    completions: int
    metrics: Spread
    """Comparisons of the plan with the baseline, reading and writing included."""
    report: Spread
    """Filling and writing the page."""
    figures: Spread
    """Of the report: what turns figures into SVG, layout included."""
    cell_metrics: Spread
    page_megabytes: float

    def __str__(self) -> str:
        return (
            f"{self.cells} cells of {self.conditions} conditions, {self.completions:,} completions: metrics "
            f"{self.metrics} s, report {self.report} s (SVG {self.figures} s), page {self.page_megabytes:.1f} MB; "
            f"rates of one cell {self.cell_metrics} s."
        )


def measure(folder: Path, cells: int, problems: int, samples: int, runs: int) -> Measured:
    experiment = make_sweep(folder, cells=cells, problems=problems, samples=samples)
    _compared(experiment, folder)  # not counted: draws the resamples and loads the libraries
    metrics = [_compared(experiment, folder) for _ in range(runs)]
    reports, figures, size = list[float](), list[float](), 0
    for _ in range(runs):
        drawing = _Stopwatch(style.to_svg)
        page.to_svg = drawing.run
        try:
            seconds, html = _timed(lambda: render_sweep_report(sweep_report(_opened(experiment, folder), "benchmark")))
        finally:
            page.to_svg = style.to_svg
        reports.append(seconds)
        figures.append(drawing.seconds)
        size = len(html.encode())
    opened = _opened(experiment, folder)
    conditions = {opened.condition(cell).fingerprint for cell in experiment.planned_cells()}
    return Measured(
        cells=len(experiment.planned_cells()),
        conditions=len(conditions),
        completions=len(conditions) * experiment.completions_per_cell,
        metrics=spread(metrics),
        report=spread(reports),
        figures=spread(figures),
        cell_metrics=spread([_rates_of_a_cell(opened) for _ in range(runs)]),
        page_megabytes=size / 1e6,
    )


def _opened(experiment: Experiment, folder: Path) -> OpenExperiment:
    return opened_in(experiment, folder)


def _compared(experiment: Experiment, folder: Path) -> float:
    with writing(_opened(experiment, folder).layout) as connection:
        connection.execute("delete from comparisons")
    return _timed(lambda: compare_plan(_opened(experiment, folder), "benchmark"))[0]


def _rates_of_a_cell(opened: OpenExperiment) -> float:
    stored = current_baseline(opened)
    assert stored is not None
    completions, detections = stored.completions, stored.detections
    return _timed(
        lambda: cell_metrics(
            completions,
            detections,
            opened.problems,
            cell=stored.cell,
            problem_set_digest=stored.problem_set_digest,
            statistics=opened.experiment.statistics,
            run_id="benchmark",
        )
    )[0]


class _Stopwatch:
    """Adds up the processor seconds of a function's calls."""

    def __init__(self, function: Callable[..., str]) -> None:
        self._function, self.seconds = function, 0.0

    def run(self, *arguments: Any) -> str:
        seconds, found = _timed(lambda: self._function(*arguments))
        self.seconds += seconds
        return found


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    found = run()
    return time.process_time() - started, found


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--cells", type=int, nargs="*", default=list(SIZES), help="about so many conditions")
    parser.add_argument("--problems", type=int, default=125)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="keep the stores here, and use those that are there")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        kept = asked.folder or Path(temporary)
        found = [
            measure(kept / f"made{cells}", cells, asked.problems, asked.samples, asked.runs) for cells in asked.cells
        ]
    tell({"where": where(), "sizes": found}, [str(size) for size in found], as_json=asked.json)


if __name__ == "__main__":
    main()
