"""Dagster's event log: what it says of an asset, and events that belong to no run.

The tags are those that a run writes; a test compares them with a run's. Dagster names them in private modules only.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import dagster as dg

DATA_VERSION_TAG = "dagster/data_version"
_USER_PROVIDED_TAG = "dagster/data_version_is_user_provided"
_CODE_VERSION_TAG = "dagster/code_version"
_INPUT_VERSION_TAG = "dagster/input_data_version/{}"
_INPUT_EVENT_TAG = "dagster/input_event_pointer/{}"
_DIMENSION_TAG = "dagster/partition/{}"

_NEVER_MADE = "INITIAL", "NULL"
"""Version and event pointer of an input that has no materialization."""

MOST_PARTITIONS = 100
"""From here on Dagster takes the version of the latest partition for that of all partitions together."""

_MATERIALIZATION = dg.DagsterEventType.ASSET_MATERIALIZATION


@dataclass(frozen=True)
class Recorded:
    """The latest materialization of an asset, or of one of its partitions."""

    storage_id: int
    data_version: str | None


@dataclass(frozen=True)
class Input:
    """What a materialization was made from, as its tags say."""

    key: dg.AssetKey
    version: str
    pointer: str


def recorded_partitions(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, Recorded]:
    """The latest materialization of each partition of an asset. Two queries, however many partitions there are."""
    storage = instance.event_log_storage
    ids = storage.get_latest_storage_id_by_partition(key, _MATERIALIZATION)
    if not ids:
        return {}
    tags = storage.get_latest_tags_by_partition(key, _MATERIALIZATION, [DATA_VERSION_TAG])
    return {
        partition: Recorded(storage_id, tags.get(partition, {}).get(DATA_VERSION_TAG))
        for partition, storage_id in ids.items()
    }


def recorded(
    instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None = None, *, until: int | None = None
) -> Recorded | None:
    """The latest materialization, up to the storage id `until` where given; None where there is none."""
    found = _latest(instance, key, partition, None if until is None else until + 1)
    return None if found is None else Recorded(found[0], found[1].get(DATA_VERSION_TAG))


def stated_input(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None, of: dg.AssetKey) -> Input:
    """An input as the latest materialization states it."""
    found = _latest(instance, key, partition)
    tags, name = {} if found is None else found[1], of.to_user_string()
    version, pointer = tags.get(_INPUT_VERSION_TAG.format(name)), tags.get(_INPUT_EVENT_TAG.format(name))
    return Input(of, version or _NEVER_MADE[0], pointer or _NEVER_MADE[1])


def observed_partitions(instance: dg.DagsterInstance, key: dg.AssetKey) -> Mapping[str, int]:
    """The storage id of the latest observation of each partition."""
    return instance.event_log_storage.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_OBSERVATION)


def input_of(key: dg.AssetKey, found: Recorded | None) -> Input:
    """An unpartitioned input."""
    if found is None:
        return Input(key, *_NEVER_MADE)
    return Input(key, found.data_version or _NEVER_MADE[0], str(found.storage_id))


def input_of_partitions(key: dg.AssetKey, found: Mapping[str, Recorded], wanted: Iterable[str]) -> Input:
    """Some partitions of an input together, as a run that depends on all of them states their version."""
    names = set(wanted)
    there = {name: found[name] for name in sorted(names) if name in found}
    if not there:
        return Input(key, *_NEVER_MADE)
    latest = max(there.values(), key=lambda recorded: recorded.storage_id)
    if len(names) >= MOST_PARTITIONS:
        return input_of(key, latest)
    versions = "".join(recorded.data_version or "" for recorded in there.values())
    return Input(key, sha256(versions.encode()).hexdigest(), str(latest.storage_id))


def record_materialization(
    instance: dg.DagsterInstance,
    spec: dg.AssetSpec,
    *,
    partition: dg.MultiPartitionKey | str | None,
    data_version: str,
    inputs: Iterable[Input],
    metadata: Mapping[str, Any],
    description: str,
) -> Recorded:
    """Record a materialization that no run made, with the tags that a run would have written."""
    tags = {DATA_VERSION_TAG: data_version, _USER_PROVIDED_TAG: "true"}
    if spec.code_version is not None:
        tags[_CODE_VERSION_TAG] = spec.code_version
    for made_from in inputs:
        name = made_from.key.to_user_string()
        tags |= {_INPUT_VERSION_TAG.format(name): made_from.version, _INPUT_EVENT_TAG.format(name): made_from.pointer}
    if isinstance(partition, dg.MultiPartitionKey):
        tags |= {_DIMENSION_TAG.format(name): key for name, key in partition.keys_by_dimension.items()}
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            asset_key=spec.key, partition=partition, description=description, metadata=dict(metadata), tags=tags
        )
    )
    found = recorded(instance, spec.key, partition)
    assert found is not None
    return found


def _latest(
    instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None, before: int | None = None
) -> tuple[int, Mapping[str, str]] | None:
    """Storage id and tags of the latest materialization, or of the latest one before a storage id."""
    partitions = None if partition is None else [partition]
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=partitions, before_storage_id=before)
    found = instance.fetch_materializations(wanted, limit=1).records
    if not found or found[0].asset_materialization is None:
        return None
    return found[0].storage_id, found[0].asset_materialization.tags or {}
