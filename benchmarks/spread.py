"""How benchmarks measure and print: alternating runs, ratios pair by pair, their spread, and where and on what."""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import psutil

from backtracking_assets.assets.provenance import commit
from backtracking_assets.execution.host import processor

MIN_RUNS = 5


@dataclass(frozen=True)
class Spread:
    """A figure over several runs."""

    median: float
    lowest: float
    highest: float
    runs: int

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.lowest)} to {_short(self.highest)} in {self.runs} runs)"


def _short(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class Compared:
    """Two ways to do the same, run in turn."""

    ratio: Spread
    """Seconds of the peer over seconds of ours, pair by pair: above 1, ours is faster."""
    ours: Spread
    peer: Spread


def compared(
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    runs: int = MIN_RUNS,
    synchronize: Callable[[], None] = lambda: None,
) -> Compared:
    """Run both in turn, so that another load of the machine falls on both; each once before that, not counted.

    Args:
        synchronize: waits until the device has done what it was given.
    """
    pairs = [(timed(ours, synchronize), timed(peer, synchronize)) for _ in range(runs + 1)][1:]
    of_ours, of_peer = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return Compared(spread([b / a for a, b in pairs]), spread(of_ours), spread(of_peer))


def timed(run: Callable[[], object], synchronize: Callable[[], None] = lambda: None) -> float:
    """Wall seconds of one run."""
    synchronize()
    started = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - started


def where(device: str = "cpu") -> dict[str, Any]:
    """Date, commit, machine and versions: what a figure is read with."""
    found: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
        "python": platform.python_version(),
        "cpu": processor(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
    }
    if device.startswith("cuda"):
        import torch

        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def options(description: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark understands: `--runs` and `--json`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=MIN_RUNS, help=f"counted runs (default {MIN_RUNS})")
    parser.add_argument("--json", action="store_true", help="print JSON in place of sentences")
    return parser


def tell(found: dict[str, Any], sentences: Sequence[str], *, as_json: bool) -> None:
    """Print the figures, as JSON or as sentences."""
    if as_json:
        print(json.dumps(found, indent=2, default=asdict))
    else:
        print("\n".join(sentences))
