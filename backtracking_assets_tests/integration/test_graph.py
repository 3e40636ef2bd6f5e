"""The asset graph of the shipped experiments: a change of it shows in review, and loading it needs nothing heavy."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from syrupy.assertion import SnapshotAssertion

from backtracking_assets.definitions import build_definitions
from backtracking_assets.experiment import PROJECT_ROOT
from backtracking_assets.experiment_file import EXPERIMENTS_DIR, experiment_names, load_experiment
from backtracking_assets.partitions import cell_key, cell_of

_LOAD = """
import json, sys
import backtracking_assets.definitions as definitions
assets = {}
for name in definitions.experiment_names():
    graph = getattr(definitions, name).resolve_asset_graph()
    assets[name] = len(graph.get_all_asset_keys())
heavy = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub")
print(json.dumps({"assets": assets, "heavy": [name for name in heavy if name in sys.modules]}))
"""

_REFUSE_NETWORK = """
import socket
def refused(*arguments, **options):
    raise AssertionError("loading the definitions asked for the network")
socket.getaddrinfo = socket.create_connection = socket.socket.connect = refused
"""


def described(definitions: dg.Definitions) -> dict[str, Any]:
    """What of a graph a person relies on: names, edges, partitions, checks, pools, jobs."""
    graph = definitions.resolve_asset_graph()
    assets = {}
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        assets[key.to_user_string()] = {
            "group": node.group_name,
            "kinds": sorted(node.kinds),
            "partitions": _partitions(node.partitions_def),
            "deps": sorted(parent.to_user_string() for parent in node.parent_keys),
            "checks": {
                check.name: "by cell" if graph.get(check).partitions_def is not None else "unpartitioned"
                for check in sorted(node.check_keys, key=lambda check: check.name)
            },
            "pools": sorted(node.pools or ()),
            "has_code_version": node.code_version is not None,
        }
    jobs = {
        job.name: {
            "assets": sorted(key.to_user_string() for key in job.asset_layer.executable_asset_keys),
            "partitioned": job.partitions_def is not None,
            "executor": job.executor_def.name,
        }
        for job in definitions.resolve_all_job_defs()
        if not job.name.startswith("__")
    }
    return {"assets": assets, "jobs": jobs}


def _partitions(definition: dg.PartitionsDefinition | None) -> dict[str, list[str]] | list[str] | None:
    if definition is None:
        return None
    if isinstance(definition, dg.MultiPartitionsDefinition):
        return {
            dimension.name: list(dimension.partitions_def.get_partition_keys())
            for dimension in definition.partitions_defs
        }
    return list(definition.get_partition_keys())


@pytest.mark.parametrize("name", experiment_names())
def test_graph_of_a_shipped_experiment(name: str, snapshot: SnapshotAssertion) -> None:
    assert described(build_definitions(load_experiment(name))) == snapshot


def test_dimensions_are_sorted_by_name_as_dagster_writes_keys() -> None:
    definitions = build_definitions(load_experiment("organism"))
    node = definitions.resolve_asset_graph().get(dg.AssetKey(["organism", "generations"]))
    assert node.partitions_def is not None
    assert "mlp_27_only|0.25" in node.partitions_def.get_partition_keys()


def test_layer_subsets_map_to_the_cells_of_the_same_subset() -> None:
    definitions = build_definitions(load_experiment("organism"))
    graph = definitions.resolve_asset_graph()
    generations = graph.get(dg.AssetKey(["organism", "generations"]))
    subsets = graph.get(dg.AssetKey(["organism", "layer_subsets"]))
    assert generations.partitions_def is not None
    assert subsets.partitions_def is not None
    mapping = graph.get_partition_mapping(generations.key, subsets.key)
    upstream = mapping.get_upstream_mapped_partitions_result_for_partitions(
        generations.partitions_def.subset_with_partition_keys(["attn_27_only|0.5", "mlp_27_only|0.5"]),
        generations.partitions_def,
        subsets.partitions_def,
    )
    assert set(upstream.partitions_subset.get_partition_keys()) == {"attn_27_only", "mlp_27_only"}


def test_building_definitions_warns_of_nothing() -> None:
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        build_definitions(load_experiment("organism"))
    assert [str(warning.message) for warning in raised] == []


def test_loading_needs_no_torch_no_checkpoint_and_no_network(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hub"),  # no cached checkpoint, no cached data set
        "BACKTRACKING_HOME": str(tmp_path / "outputs"),
    }
    found = subprocess.run(
        [sys.executable, "-c", _REFUSE_NETWORK + _LOAD], env=environment, capture_output=True, text=True, check=True
    )
    loaded = json.loads(found.stdout)
    assert loaded["heavy"] == []
    assert set(loaded["assets"]) == set(experiment_names())
    assert all(count == 16 for count in loaded["assets"].values())
    assert list(tmp_path.iterdir()) == []


def test_workspace_names_exactly_the_shipped_experiments() -> None:
    workspace = yaml.safe_load((PROJECT_ROOT / "workspace.yaml").read_text(encoding="utf-8"))
    locations = [entry["python_module"] for entry in workspace["load_from"]]
    assert {location["module_name"] for location in locations} == {"backtracking_assets.definitions"}
    assert sorted(location["attribute"] for location in locations) == sorted(experiment_names())
    # `sweep` lists its runs under a repository of the experiment's name.
    assert all(location["location_name"] == location["attribute"] for location in locations)


@pytest.mark.parametrize("name", experiment_names())
def test_a_shipped_experiment_has_the_name_of_its_file(name: str) -> None:
    assert load_experiment(EXPERIMENTS_DIR / f"{name}.yaml").name == name


def test_an_experiment_that_does_not_exist_is_no_attribute() -> None:
    from backtracking_assets import definitions

    with pytest.raises(AttributeError, match="no experiment of that name"):
        definitions.organizm  # noqa: B018


@pytest.mark.parametrize("name", experiment_names())
def test_every_planned_cell_is_a_partition(name: str) -> None:
    experiment = load_experiment(name)
    graph = build_definitions(experiment).resolve_asset_graph()
    partitions = graph.get(dg.AssetKey([name, "generations"])).partitions_def
    assert partitions is not None
    keys = set(partitions.get_partition_keys())
    for cell in experiment.planned_cells():
        assert cell_key(cell) in keys
        assert cell_of(cell_key(cell)) == cell
