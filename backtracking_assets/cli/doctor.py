"""`backtracking doctor`: what a sweep would meet on this machine."""

import json
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backtracking_assets.assets.memory_planning import memory_facts
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.stored_variants import variants_of
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.execution.devices import devices_of, torch_device
from backtracking_assets.execution.host import gpu_facts, host_facts
from backtracking_assets.experiment import Experiment, outputs_home
from backtracking_assets.experiment_file import load_experiment

_PACKAGES = ("torch", "transformers", "tokenizers", "dagster", "dagster-webserver", "duckdb", "pandas", "matplotlib")
EXIT_HEALTHY, EXIT_UNFIT = 0, 1


def run_doctor(name: str, online: bool, as_json: bool, console: Console) -> int:
    """Print the facts; 0 if the experiment could run here, 1 if its checkpoint or problems cannot be used.

    Raises:
        ExperimentError: the experiment file is unfit.
    """
    experiment = load_experiment(name)
    facts: dict[str, Any] = {
        **host_facts(outputs_home()),
        **gpu_facts(),
        "versions": {"python": _python(), **{package: version(package) for package in _PACKAGES}},
        "hub_token": _token(online),
        "experiment": experiment.name,
        "checkpoint": _checkpoint(experiment),
        "problems": _problems(experiment),
        "memory": _memory(experiment),
    }
    healthy = facts["checkpoint"]["loads"] and facts["problems"]["usable"] and facts["memory"]["fits"]
    facts["ready"] = healthy
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        memory = facts.pop("memory")
        console.print(_table(facts))
        console.print(_memory_table(memory))
        console.print("Ready." if healthy else "Not ready: see above.", style="green" if healthy else "red")
    return EXIT_HEALTHY if healthy else EXIT_UNFIT


def _python() -> str:
    import platform

    return platform.python_version()


def _token(online: bool) -> str:
    """Whether a hub token is set, and with `online` whether the hub accepts it; never the token itself."""
    from huggingface_hub import HfApi, get_token

    token = get_token()  # the environment, or what `hf auth login` has stored
    if not token:
        return "not set"
    if not online:
        return "set"
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi(token=token).whoami()
    except HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else None
        return "set, refused by the hub" if code in (401, 403) else f"set, the hub answered with status {code}"
    except Exception as error:  # any failure to connect; its text could hold the request's headers
        return f"set, the hub cannot be reached ({type(error).__name__})"
    return "set, accepted by the hub"


def _checkpoint(experiment: Experiment) -> dict[str, Any]:
    try:
        opened = OpenExperiment(experiment, download=False)
        checkpoint = opened.checkpoint
        from backtracking_assets.models.loading import load_model

        loaded = load_model(experiment, checkpoint, torch_device(devices_of(experiment)[0]))
    except BacktrackingError as error:
        return {"loads": False, "why": str(error)}
    return {
        "loads": True,
        "folder": str(checkpoint.folder),
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "layers": checkpoint.n_layers,
        "dtype": experiment.model.dtype,
        "device": str(loaded.model.device),
        "weights_digest": checkpoint.weights_digest,
    }


def _problems(experiment: Experiment) -> dict[str, Any]:
    try:
        opened = OpenExperiment(experiment, download=False)
        return {"usable": True, "count": len(opened.problems), "digest": opened.problem_set_digest}
    except BacktrackingError as error:
        return {"usable": False, "why": str(error)}


def _memory(experiment: Experiment) -> dict[str, Any]:
    """What a chunk takes, and the batches it is decoded in; on a machine without the device, what it would take."""
    try:
        opened = OpenExperiment(experiment, download=False)
        variants = [opened.for_variant(variant.name) for variant in variants_of(experiment)]
        return {"fits": True, **memory_facts(opened, variants, _device(experiment))}
    except BacktrackingError as error:
        return {"fits": False, "why": str(error)}


def _device(experiment: Experiment) -> str | None:
    try:
        return torch_device(devices_of(experiment)[0])
    except BacktrackingError:  # said by the checkpoint's line
        return None


def _memory_table(memory: dict[str, Any]) -> Table:
    table = Table(title="Memory", title_justify="left", title_style="bold", show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    if not memory["fits"]:
        table.add_row("not planned", escape(memory["why"]))
        return table
    tokens = f"{memory['longest_prompt']:,} of the prompt + {memory['max_new_tokens']:,} new"
    table.add_row("weights", f"{memory['weights_gib']} GiB")
    table.add_row("keys and values", f"{memory['token_bytes']:,} bytes a token; {memory['row_gib']} GiB a completion")
    table.add_row("tokens", f"at most {tokens}")
    table.add_row("whole chunk", f"{memory['chunk_gib']} GiB for {memory['completions_per_chunk']} completions")
    rows = (f"{rows} on {gpu}" if rows else f"none on {gpu}" for gpu, rows in memory["rows_on_a_gpu"].items())
    table.add_row("at once on a GPU", ", ".join(rows))
    if memory["device"] is None:
        table.add_row("here", "the device that the experiment asks for is not there")
        return table
    planned = f"{memory['planned_with_gib']} of {memory['device_gib']} GiB are planned with"
    table.add_row(memory["device"], f"{planned} ({memory['planned_with_by']})")
    table.add_row("plan", escape(memory["plan"]))
    return table


def _table(facts: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in facts.items():
        shown = "; ".join(f"{name} {entry}" for name, entry in value.items()) if isinstance(value, dict) else value
        if isinstance(value, list):
            shown = "; ".join(", ".join(f"{name} {entry}" for name, entry in one.items()) for one in value) or "none"
        table.add_row(key.replace("_", " "), escape("none" if shown is None else str(shown)))
    return table
