"""Having Dagster's record agree with the store: what is there shows as materialized, without being made again.

The store is the truth. What it holds and the record lacks, or has in another version, is recorded by an event that
belongs to no run, with the tags that a run writes, so that nothing looks stale for it. What the record has and the
store does not hold is marked by an observation and reported; no event is ever removed.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import dagster as dg

from backtracking_assets.assets.cell_metadata import (
    detections_metadata,
    generations_metadata,
    metrics_metadata,
    report_metadata,
)
from backtracking_assets.assets.component_means import means_metadata
from backtracking_assets.assets.compositions import MEANS
from backtracking_assets.assets.contents import cell_report, sweep_report
from backtracking_assets.assets.event_log import (
    MOST_PARTITIONS,
    Input,
    Recorded,
    input_of,
    input_of_partitions,
    observed_partitions,
    record_materialization,
    recorded,
    recorded_partitions,
    stated_input,
)
from backtracking_assets.assets.graph import experiment_assets
from backtracking_assets.assets.held import Held, HeldCell, held_cells, held_sweep
from backtracking_assets.assets.jobs import CELL_ASSETS
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.page_files import report_path, sweep_report_path
from backtracking_assets.assets.phase1_from_store import record_phase1
from backtracking_assets.assets.positive_control import control_metadata
from backtracking_assets.assets.positive_control_contents import control_report
from backtracking_assets.assets.scan_from_store import record_scan
from backtracking_assets.assets.sources import record_sources
from backtracking_assets.assets.stored_cells import StoredCell, current_baseline, metrics_of
from backtracking_assets.assets.sweep_metadata import (
    comparisons_metadata,
    continuation_metadata,
    slices,
    sweep_report_metadata,
)
from backtracking_assets.assets.variants_from_store import record_variants
from backtracking_assets.partitions import cell_key
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import Cell, Variant
from backtracking_assets.reporting.figures import cell_overview

_DESCRIPTION = "Recorded from the store: this is there, and no run of this Dagster instance made it."
_ABSENT = "The store does not hold this any more."
_OTHER = "The store holds another version of this, which is not what the experiment file asks for now."

_SWEEP_ASSETS = (
    MEANS,
    "subset_sweep",
    "scale_sweep",
    "continuation_ablation",
    "positive_control",
    "phase2_report",
)

OnCell = Callable[[int, int], None]
"""Called with the cells that are recorded and how many there are to record."""


@dataclass(frozen=True)
class Stray:
    """A materialization in Dagster's record that the store does not hold."""

    asset: str
    cell: Cell | None
    reason: str

    def __str__(self) -> str:
        return f"{self.asset}{f' of {self.cell}' if self.cell else ''}: {self.reason}"


@dataclass
class Reconciled:
    """What was recorded, and what the record has beyond the store."""

    sources: int = 0
    recorded: list[tuple[str, Cell | None]] = field(default_factory=list)
    """Assets, with their cell where they have one."""
    variants: list[tuple[str, Variant]] = field(default_factory=list)
    """Assets of prompt variants."""
    strays: list[Stray] = field(default_factory=list)

    @property
    def cells(self) -> set[Cell]:
        return {cell for _, cell in self.recorded if cell is not None}


def reconcile(
    instance: dg.DagsterInstance, opened: OpenExperiment, *, on_cell: OnCell = lambda done, total: None
) -> Reconciled:
    """Record what the store holds and Dagster's record lacks or has in another version, sources first.

    Raises:
        BacktrackingError: a source is missing or malformed, or the store cannot be read. Nothing but sources is
            recorded then.
    """
    result = Reconciled(sources=record_sources(instance, opened))
    result.variants = record_variants(instance, opened)
    result.recorded += [(asset, None) for asset in record_scan(instance, opened)]
    log, held = _Log(instance, opened), held_cells(opened)
    due = [cell for cell in log.keys if any(_is_due(log, asset, cell, held.get(cell)) for asset in CELL_ASSETS)]
    for done, cell in enumerate(due, start=1):
        for asset in CELL_ASSETS:
            # Asked again: what is recorded of an asset may make the next one of the cell look stale.
            if _is_due(log, asset, cell, held[cell]):
                _record_cell(log, asset, held[cell])
                result.recorded.append((asset, cell))
        on_cell(done, len(due))
    result.strays = list(_strays(log, held))
    _mark(log, result.strays)
    sweep = held_sweep(opened, held)
    for asset in _SWEEP_ASSETS:
        if asset not in log.specs:  # an experiment without this part
            continue
        found = log.latest(asset)
        if asset in sweep and sweep[asset].current and _differs(log, asset, None, found, sweep[asset]):
            _record_sweep(log, asset, sweep[asset])
            result.recorded.append((asset, None))
        elif found is not None and asset not in sweep:
            result.strays.append(Stray(asset, None, _ABSENT))
    result.recorded += [(asset, None) for asset in record_phase1(instance, opened)]
    return result


class _Log:
    """What the record says of an experiment, read when first asked for, with what is recorded meanwhile."""

    def __init__(self, instance: dg.DagsterInstance, opened: OpenExperiment) -> None:
        self.instance = instance
        self.opened = opened
        experiment = opened.experiment
        assets = experiment_assets(experiment)
        self.specs = {spec.key.path[-1]: spec for definition in assets for spec in definition.specs}
        grid = (Cell(subset, scale) for subset in experiment.all_subsets() for scale in experiment.scales)
        self.keys = {cell: str(cell_key(cell)) for cell in grid}
        self._partitions: dict[str, dict[str, Recorded]] = {}
        self._latest: dict[str, Recorded | None] = {}

    @cached_property
    def observed(self) -> dict[str, Mapping[str, int]]:
        return {asset: observed_partitions(self.instance, self.specs[asset].key) for asset in CELL_ASSETS}

    def partitions(self, asset: str) -> dict[str, Recorded]:
        if asset not in self._partitions:
            self._partitions[asset] = recorded_partitions(self.instance, self.specs[asset].key)
        return self._partitions[asset]

    def of_cell(self, asset: str, cell: Cell) -> Recorded | None:
        return self.partitions(asset).get(self.keys[cell])

    def key(self, asset: str) -> dg.AssetKey:
        return self.specs[asset].key

    def version_at(self, asset: str, partition: str, pointer: str) -> str | None:
        """The version that a partition had at an event, by which Dagster tells whether it has changed since."""
        if not pointer.isdigit():
            return None
        found = recorded(self.instance, self.key(asset), partition, until=int(pointer))
        return None if found is None else found.data_version

    def latest(self, asset: str) -> Recorded | None:
        if asset not in self._latest:
            self._latest[asset] = recorded(self.instance, self.specs[asset].key)
        return self._latest[asset]

    def inputs(self, asset: str, cell: Cell | None) -> Iterator[Input]:
        """What an asset is made from, as it is recorded now."""
        for dep in self.specs[asset].deps:
            name = dep.asset_key.path[-1]
            if self.specs[name].partitions_def is None:
                yield input_of(dep.asset_key, self.latest(name))
            else:
                yield input_of_partitions(dep.asset_key, self.partitions(name), self._needed(name, cell))

    def changed_inputs(self, asset: str, cell: Cell | None, since: int) -> Iterator[tuple[str, list[str | None]]]:
        """Inputs that were recorded after an event, and their partitions that were.

        Sources are left out: a cell whose sources have changed is not current. So is what Dagster does not compare.
        """
        for dep in self.specs[asset].deps:
            name = dep.asset_key.path[-1]
            changed: list[str | None] = []
            if name in _SWEEP_ASSETS:
                found = self.latest(name)
                changed = [None] if found is not None and found.storage_id > since else []
            elif name in CELL_ASSETS and len(needed := self._needed(name, cell)) < MOST_PARTITIONS:
                there = self.partitions(name)
                changed = [key for key in needed if key in there and there[key].storage_id > since]
            if changed:
                yield name, changed

    def _needed(self, name: str, cell: Cell | None) -> list[str]:
        """The partitions of an input that an asset is made from: the cell's, or all."""
        if name in CELL_ASSETS:
            return list(self.keys.values()) if cell is None else [self.keys[cell]]
        assert cell is not None
        return [cell.layer_subset]

    def record(self, asset: str, cell: Cell | None, held: Held, metadata: Mapping[str, Any]) -> None:
        partition = None if cell is None else cell_key(cell)
        event = record_materialization(
            self.instance,
            self.specs[asset],
            partition=partition,
            data_version=held.data_version,
            inputs=list(self.inputs(asset, cell)),
            metadata=metadata,
            description=_DESCRIPTION,
        )
        if partition is None:
            self._latest[asset] = event
        else:
            self.partitions(asset)[str(partition)] = event


def _is_due(log: _Log, asset: str, cell: Cell, held: HeldCell | None) -> bool:
    if held is None or asset not in held.assets or not held.assets[asset].current:
        return False
    found = log.of_cell(asset, cell)
    # A mark that the store lacks this would stay the last word, although it is there again.
    marked = found is not None and log.observed[asset].get(log.keys[cell], 0) > found.storage_id
    return marked or _differs(log, asset, cell, found, held.assets[asset])


def _differs(log: _Log, asset: str, cell: Cell | None, found: Recorded | None, held: Held) -> bool:
    """Whether the record lacks what is held, has another version, or names an input that has another version now."""
    if found is None or found.data_version != held.data_version:
        return True
    for name, partitions in log.changed_inputs(asset, cell, since=found.storage_id):
        stated = stated_input(log.instance, log.key(asset), None if cell is None else log.keys[cell], log.key(name))
        for partition in partitions:
            now = log.latest(name) if partition is None else log.partitions(name)[partition]
            then = stated.version if partition is None else log.version_at(name, partition, stated.pointer)
            if now is None or now.data_version != then:
                return True
    return False


def _strays(log: _Log, held: Mapping[Cell, HeldCell]) -> Iterator[Stray]:
    for cell in log.keys:
        there = held[cell].assets if cell in held else {}
        for asset in CELL_ASSETS:
            found = log.of_cell(asset, cell)
            if found is None:
                continue
            if asset not in there:
                yield Stray(asset, cell, _ABSENT)
            elif there[asset].data_version != found.data_version and not there[asset].current:
                yield Stray(asset, cell, _OTHER)


def _mark(log: _Log, strays: list[Stray]) -> None:
    """Have the page of each stray's partition say so, once."""
    for stray in strays:
        assert stray.cell is not None
        found = log.of_cell(stray.asset, stray.cell)
        if found is None or log.observed[stray.asset].get(log.keys[stray.cell], 0) > found.storage_id:
            continue
        log.instance.report_runless_asset_event(
            dg.AssetObservation(
                asset_key=log.specs[stray.asset].key,
                partition=cell_key(stray.cell),
                description=stray.reason,
                metadata={"store": stray.reason, "database": dg.MetadataValue.path(str(log.opened.layout.database))},
            )
        )


def _record_cell(log: _Log, asset: str, held: HeldCell) -> None:
    stored, opened = held.stored, log.opened
    log.record(asset, stored.cell, held.assets[asset], _cell_metadata(asset, opened, stored))


def _cell_metadata(asset: str, opened: OpenExperiment, stored: StoredCell) -> dict[str, Any]:
    cell = stored.cell
    if asset == "generations":
        return generations_metadata(stored)
    if asset == "detections":
        return detections_metadata(stored, None if cell.scale == BASELINE_SCALE else current_baseline(opened))
    if asset == "metrics":
        return metrics_metadata(metrics_of(opened, cell).to_pylist())
    report = cell_report(opened, cell, "")
    return report_metadata(opened.experiment, report, report_path(opened, cell), cell_overview(report))


def _record_sweep(log: _Log, asset: str, held: Held) -> None:
    opened = log.opened
    if asset == "phase2_report":
        metadata = sweep_report_metadata(sweep_report(opened, ""), sweep_report_path(opened))
    elif asset == MEANS:
        metadata = means_metadata(opened)
    elif asset == "continuation_ablation":
        metadata = continuation_metadata(opened)
    elif asset == "positive_control":
        metadata = control_metadata(opened, control_report(opened, ""))
    else:
        metadata = comparisons_metadata(opened, slices(opened.experiment)[asset], "")
    log.record(asset, None, held, metadata)
