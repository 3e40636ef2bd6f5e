"""What a recorded materialization says of its inputs is what a run of Dagster's own would have said."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import dagster as dg
import pytest

from backtracking_assets.assets.event_log import (
    input_of,
    input_of_partitions,
    record_materialization,
    recorded,
    recorded_partitions,
    stated_input,
)

UPSTREAM, SOURCE, DOWNSTREAM = dg.AssetKey(["e", "up"]), dg.AssetKey(["e", "source"]), dg.AssetKey(["e", "down"])


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


def graph(n_partitions: int) -> dg.Definitions:
    keys = dg.StaticPartitionsDefinition([f"p{number}" for number in range(n_partitions)])

    @dg.asset(key=SOURCE)
    def source() -> None: ...

    @dg.asset(key=UPSTREAM, partitions_def=keys)
    def up(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        return dg.MaterializeResult(data_version=dg.DataVersion(f"version of {context.partition_key}"))

    @dg.asset(key=DOWNSTREAM, deps=[UPSTREAM, SOURCE], code_version="7")
    def down() -> dg.MaterializeResult:
        return dg.MaterializeResult(data_version=dg.DataVersion("down"))

    return dg.Definitions(
        assets=[source, up, down],
        jobs=[dg.define_asset_job(key.path[-1], selection=[key]) for key in (SOURCE, UPSTREAM, DOWNSTREAM)],
    )


def tags(instance: dg.DagsterInstance) -> Mapping[str, str]:
    """Of the latest materialization of the downstream asset."""
    found = instance.fetch_materializations(DOWNSTREAM, limit=1).records[0].asset_materialization
    assert found is not None
    return found.tags or {}


@pytest.mark.parametrize("n_partitions", [3, 99, 100])
@pytest.mark.parametrize("made", [["p2", "p0"], []])
def test_tags_are_those_of_a_run(instance: dg.DagsterInstance, n_partitions: int, made: list[str]) -> None:
    definitions = graph(n_partitions)
    for key in made:
        definitions.resolve_job_def("up").execute_in_process(instance=instance, partition_key=key)
    assert definitions.resolve_job_def("down").execute_in_process(instance=instance).success
    expected = tags(instance)
    inputs = [
        input_of_partitions(
            UPSTREAM, recorded_partitions(instance, UPSTREAM), [f"p{number}" for number in range(n_partitions)]
        ),
        input_of(SOURCE, recorded(instance, SOURCE)),
    ]
    event = record_materialization(
        instance,
        dg.AssetSpec(DOWNSTREAM, code_version="7"),
        partition=None,
        data_version="down",
        inputs=inputs,
        metadata={},
        description="recorded",
    )
    assert tags(instance) == expected
    assert event == recorded(instance, DOWNSTREAM)
    assert stated_input(instance, DOWNSTREAM, None, UPSTREAM) == inputs[0]


def test_the_latest_materialization_up_to_an_event(instance: dg.DagsterInstance) -> None:
    for version in ("first", "second"):
        instance.report_runless_asset_event(
            dg.AssetMaterialization(UPSTREAM, partition="p1", tags={"dagster/data_version": version})
        )
    latest = recorded_partitions(instance, UPSTREAM)["p1"]
    assert latest.data_version == "second"
    earlier = recorded(instance, UPSTREAM, "p1", until=latest.storage_id - 1)
    assert earlier is not None
    assert earlier.data_version == "first"
    assert recorded(instance, UPSTREAM, "p1", until=earlier.storage_id - 1) is None
    assert recorded_partitions(instance, SOURCE) == {}
