"""Commands and their options. Each command imports what it needs when it runs, so that `--help` is quick."""

import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from backtracking_assets.errors import BacktrackingError
from backtracking_assets.redaction import redacted

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Which layers make a reasoning model backtrack? Layer-scaling experiments on a Dagster asset graph.",
)

ExperimentArgument = Annotated[
    str, typer.Argument(metavar="EXPERIMENT", help="A name in data/experiments/ or a path to a YAML file.")
]
UrlArgument = Annotated[
    str, typer.Argument(metavar="URL", help="A folder, s3://bucket/prefix or hf://datasets/user/name.")
]
DEFAULT = "organism"
STUDIED = "deepseek_r1_distill_qwen_1_5b"
"""The experiment of the reference study's model."""


def main() -> None:
    """Run the command line; a problem that a person can act on ends in one sentence and exit code 2."""
    from backtracking_assets.cli.environment import prepare_environment

    code: int | str | None = 0
    try:
        prepare_environment()
        app()
    except BacktrackingError as error:
        _say(error)
        code = EXIT_BAD_INPUT
    except SystemExit as end:
        code = end.code
    except Exception as error:
        from backtracking_assets.execution.instance_errors import instance_error

        readable = instance_error(error)
        if readable is None:
            # A fault of this project. Its texts could hold what the environment holds.
            sys.stderr.write(redacted("".join(traceback.format_exception(error))))
            code = EXIT_FAILED
        else:
            _say(readable)
            code = EXIT_BAD_INPUT
    _leave(code)


def _say(error: BacktrackingError) -> None:
    """Print an error's sentence; what cannot be seen in it stands as code points, and moves no cursor."""
    from backtracking_assets.reporting.text import visible

    Console(stderr=True, soft_wrap=True, highlight=False).print(visible(f"Error: {error}"), markup=False)


def _leave(code: int | str | None) -> NoReturn:
    """End the process without taking the interpreter apart.

    Where torch was imported inside a Dagster step, DuckDB's binding prints pages of leak reports when the interpreter
    shuts down. Everything that must be kept is closed or on disk by now.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else EXIT_FAILED)


@app.command()
def sweep(
    experiment: ExperimentArgument = DEFAULT,
    layer_subset: Annotated[
        list[str] | None, typer.Option(help="Only cells of this subset; may be given more than once.")
    ] = None,
    scale: Annotated[
        list[float] | None, typer.Option(help="Only cells at this scale; may be given more than once.")
    ] = None,
    job: Annotated[str, typer.Option(help="The step of the study to do.")] = "full_study",
    push: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Push results there after every finished cell; BACKTRACKING_PUSH_URL does the same."
        ),
    ] = None,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Use at most so many devices, a process each; all of them by default.")
    ] = None,
) -> None:
    """Do what is missing of the plan, then print the results and where the report lies."""
    from backtracking_assets.cli.fork_server import forking_workers

    with forking_workers(experiment, devices):
        from backtracking_assets.cli.sweep import run_sweep

        code = run_sweep(experiment, layer_subset or [], scale or [], job, Console(), push=push, most_devices=devices)
    sys.exit(code)


@app.command()
def push(url: UrlArgument, experiment: ExperimentArgument = DEFAULT) -> None:
    """Send an experiment's results to a folder, S3 or the Hugging Face hub; only what is missing there is sent."""
    from backtracking_assets.cli.bundles import run_push

    sys.exit(run_push(url, experiment, Console()))


@app.command()
def pull(url: UrlArgument, experiment: ExperimentArgument = DEFAULT) -> None:
    """Take the results that were pushed to a URL into this machine's; nothing that is here is lost."""
    from backtracking_assets.cli.bundles import run_pull

    sys.exit(run_pull(url, experiment, Console()))


@app.command()
def status(
    experiment: ExperimentArgument = DEFAULT,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show every planned cell: done, partial, stale or missing, and why."""
    from backtracking_assets.cli.status import show_status

    show_status(experiment, json, Console())


@app.command()
def report(experiment: ExperimentArgument = DEFAULT) -> None:
    """Write the sweep's report from what is there, and print its path."""
    from backtracking_assets.cli.sweep import write_report

    sys.exit(write_report(experiment, Console()))


@app.command("import-run")
def import_run(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder of one run of the reference study's layout.")
    ],
    experiment: ExperimentArgument = STUDIED,
    phase1: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="The phase 1 run that it went out from: its folder, or its id if imported."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Import nothing where a row or a value cannot be read.")
    ] = False,
) -> None:
    """Read a run of the reference study into the database, beside what was measured here."""
    from backtracking_assets.cli.import_run import run_import

    sys.exit(run_import(folder, experiment, phase1, strict, Console()))


@app.command()
def ui(
    host: Annotated[str, typer.Option(help="Address to listen on. The page has no login.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 3000,
) -> None:
    """Open Dagster's web UI: materialize cells, backfill, look at lineage."""
    from backtracking_assets.cli.ui import run_ui

    run_ui(host, port, Console())


@app.command()
def doctor(
    experiment: ExperimentArgument = DEFAULT,
    online: Annotated[bool, typer.Option("--online", help="Ask the hub whether the token is accepted.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show host, GPU, versions, whether a hub token is set, and whether the checkpoint loads."""
    from backtracking_assets.cli.doctor import run_doctor

    sys.exit(run_doctor(experiment, online, json, Console()))


@app.command("rebuild-database")
def rebuild_database(experiment: ExperimentArgument = DEFAULT) -> None:
    """Make the database anew from the archive; the old file is kept in set_aside/."""
    from backtracking_assets.cli.rebuild_database import run_rebuild

    sys.exit(run_rebuild(experiment, Console()))


@app.command()
def reconcile(experiment: ExperimentArgument = DEFAULT) -> None:
    """Have Dagster show what the store holds, where its record differs."""
    from backtracking_assets.cli.reconcile import run_reconcile

    sys.exit(run_reconcile(experiment, Console()))


@app.command("train-organism")
def train_organism(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint; must not hold files.")] = Path("organism"),
    recipe: Annotated[str, typer.Option(help="first or second: the recipe of the organism of that number.")] = "first",
) -> None:
    """Train an organism, one of the tiny models that ship with this project, into a new folder."""
    from backtracking_assets.cli.train_organism import run_training

    run_training(out, recipe, Console())


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if show:
        from backtracking_assets import __version__

        typer.echo(__version__)
        raise typer.Exit
