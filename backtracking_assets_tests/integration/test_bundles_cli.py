"""`backtracking push`, `pull` and `sweep --push` as a person meets them: one study, two machines."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from backtracking_assets.assets import pushing
from backtracking_assets.errors import BundleError
from backtracking_assets.records import Cell
from backtracking_assets.storage import queries
from backtracking_assets.storage.archive import archived_fingerprints
from backtracking_assets.storage.bundles.location import open_location
from backtracking_assets.storage.bundles.manifest import read_manifest
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets_tests.integration.processes import Finished, backtracking
from backtracking_assets_tests.integration.studies import Study, make_study, run_cell
from backtracking_assets_tests.s3_server import BUCKET, s3_server
from backtracking_assets_tests.unit.bundle_samples import files

ONE_SUBSET = ("--layer-subset", "attn_1")


@dataclass(frozen=True)
class Machines:
    """A study that was swept on one machine, and pushed by its sweep."""

    study: Study
    bundles: Path
    swept: Finished


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Machines:
    study = make_study(tmp_path_factory.mktemp("study"), tiny_checkpoint)
    bundles = tmp_path_factory.mktemp("bundles")
    swept = backtracking(
        "sweep",
        str(study.file),
        *ONE_SUBSET,
        "--push",
        str(bundles),
        environment=study.environment,
        folder=tmp_path_factory.mktemp("streams"),
    )
    return Machines(study, bundles, swept)


@pytest.fixture
def there(tmp_path: Path, machines: Machines) -> Study:
    """The same experiment file on another machine, without results."""
    study = Study(tmp_path / "there", machines.study.document)
    study.home.mkdir()
    study.experiment()
    return study


def run(study: Study, folder: Path, *arguments: str, **environment: str) -> Finished:
    return backtracking(*arguments, environment={**study.environment, **environment}, folder=folder)


def refused(found: Finished) -> str:
    assert found.code == 2
    assert found.stdout == ""
    assert found.stderr.startswith("Error: ")
    assert found.stderr.count("\n") == 1
    assert "Traceback" not in found.stderr
    return found.stderr


def test_a_sweep_pushes_what_it_has_finished(machines: Machines) -> None:
    assert machines.swept.code == 0, machines.swept.stderr
    assert "Warning" not in machines.swept.stdout
    content = open_location(str(machines.bundles), "tiny").read_manifest()
    assert content is not None
    manifest = read_manifest(content, experiment="tiny", where="there")
    layout = machines.study.layout
    assert {entry.path for entry in manifest.files} == {*files(layout), "experiment.yaml", "constraints.txt"}
    assert manifest.made.versions["torch"]
    assert str(machines.study.home) not in content.decode()


def test_push_finds_everything_there(machines: Machines, tmp_path: Path) -> None:
    found = run(machines.study, tmp_path, "push", str(machines.bundles), str(machines.study.file))
    assert found.code == 0, found.stderr
    assert "Sent: 0 files, 0 bytes. Verified: 7 from earlier pushes by size." in found.stdout


def test_another_machine_has_the_completions_and_generates_none(
    machines: Machines, there: Study, tmp_path: Path
) -> None:
    found = run(there, tmp_path, "pull", str(machines.bundles), str(there.file))
    assert found.code == 0, found.stderr
    assert "Taken: 12 completions of 2 conditions, 3 pages." in found.stdout
    assert "Stored in the database: 2 conditions." in found.stdout
    assert "differs" not in found.stdout
    assert archives_and_cell_pages(there.layout).items() >= archives_and_cell_pages(machines.study.layout).items()
    for fingerprint in archived_fingerprints(there.layout):
        ours, theirs = (queries.completions(layout, fingerprint) for layout in (there.layout, machines.study.layout))
        assert ours == theirs
    again = run(there, tmp_path, "pull", str(machines.bundles), str(there.file))
    assert "Fetched and verified by sha256: 0 files, 0 bytes. Taken: 0 completions" in again.stdout
    assert "Stored in the database: 0 conditions." in again.stdout
    swept = run(there, tmp_path, "sweep", str(there.file), *ONE_SUBSET)
    assert swept.code == 0, swept.stderr
    runs = {run_id for f in archived_fingerprints(there.layout) for run_id in made_by(there.layout, f)}
    assert runs == {run_id for f in archived_fingerprints(there.layout) for run_id in made_by(machines.study.layout, f)}


def archives_and_cell_pages(layout: StoreLayout) -> dict[str, bytes]:
    """Files by name. A pull may restore a cell that the other machine had not linked, and then shows it as well."""
    return {name: content for name, content in files(layout).items() if name != "reports/phase2_report.html"}


def made_by(layout: StoreLayout, fingerprint: str) -> set[str]:
    return set(queries.completions(layout, fingerprint)["run_id"].to_pylist())


@pytest.mark.slow
def test_a_database_that_could_not_be_written_is_made_up_for(machines: Machines, there: Study, tmp_path: Path) -> None:
    there.layout.prepare()
    there.layout.database.write_text("no database", encoding="utf-8")
    found = run(there, tmp_path, "pull", str(machines.bundles), str(there.file))
    assert found.code == 2
    assert found.stderr.startswith("Error: The database ")
    assert files(there.layout) == files(machines.study.layout)
    there.layout.database.unlink()
    again = run(there, tmp_path, "pull", str(machines.bundles), str(there.file))
    assert again.code == 0, again.stderr
    assert "Stored in the database: 2 conditions." in again.stdout


def test_another_experiment_file_is_named_and_kept(machines: Machines, there: Study, tmp_path: Path) -> None:
    there.experiment(sampling={"seed": 8})
    mine = there.file.read_bytes()
    found = run(there, tmp_path, "pull", str(machines.bundles), str(there.file))
    assert found.code == 0, found.stderr
    assert "in: sampling. Yours is unchanged" in found.stdout
    assert there.file.read_bytes() == mine
    assert (there.layout.pulled / "experiment.yaml").read_bytes() == machines.study.file.read_bytes()


@pytest.mark.slow
def test_an_experiment_that_is_not_known_here_comes_with_its_file(machines: Machines, tmp_path: Path) -> None:
    study = Study(tmp_path / "elsewhere", machines.study.document)
    study.home.mkdir()
    own = study.layout.root / "tiny.yaml"
    found = run(study, tmp_path, "pull", str(machines.bundles), "tiny")
    assert found.code == 0, found.stderr
    assert own.read_bytes() == machines.study.file.read_bytes()
    assert f"'tiny' has no file in data/experiments/: the bundle's is in {own}" in found.stdout
    again = run(study, tmp_path, "pull", str(machines.bundles), "tiny")
    assert again.code == 0, again.stderr
    assert "Fetched and verified by sha256: 0 files" in again.stdout
    status = run(study, tmp_path, "status", str(own), "--json")
    assert status.code == 0, status.stderr
    assert [cell["completions"] for cell in json.loads(status.stdout)["cells"]][:2] == [6, 6]


def test_a_name_that_no_experiment_can_have(machines: Machines, tmp_path: Path) -> None:
    found = run(machines.study, tmp_path, "pull", str(machines.bundles), "../tiny")
    assert "There is no experiment '../tiny'" in refused(found)


def test_a_place_without_a_bundle(machines: Machines, tmp_path: Path) -> None:
    found = run(machines.study, tmp_path, "pull", str(tmp_path / "nowhere"), str(machines.study.file))
    assert "There is no bundle of 'tiny' at " in refused(found)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("command", ["push", "pull", "sweep"])
def test_credentials_in_a_url_are_never_printed(machines: Machines, there: Study, tmp_path: Path, command: str) -> None:
    url = "s3://AKIAEXAMPLE:sesame@bucket/x"
    arguments = (url, str(there.file)) if command != "sweep" else (str(there.file), "--push", url)
    message = refused(run(there, tmp_path, command, *arguments))
    assert "carries credentials" in message
    assert "sesame" not in message
    assert not there.layout.database.exists()


def test_a_push_that_fails_warns_and_the_sweep_goes_on(machines: Machines, there: Study, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = run(
        there, tmp_path, "sweep", str(there.file), *ONE_SUBSET, BACKTRACKING_PUSH_URL=str(tmp_path / "file" / "below")
    )
    assert found.code == 0, found.stderr
    assert "Warning: Results were not pushed; the next push catches up." in found.stdout
    assert "Traceback" not in found.stdout + found.stderr
    cells = json.loads(run(there, tmp_path, "status", str(there.file), "--json").stdout)["cells"]
    assert [cell["state"] for cell in cells][:2] == ["done", "done"]
    caught_up = run(there, tmp_path, "push", str(tmp_path / "bundles"), str(there.file))
    assert caught_up.code == 0, caught_up.stderr
    assert "Sent: 7 files" in caught_up.stdout


@pytest.fixture
def s3_environment() -> Iterator[dict[str, str]]:
    with s3_server() as environment:
        yield environment


@pytest.mark.slow
def test_s3_is_reached_by_the_environment(
    machines: Machines, there: Study, tmp_path: Path, s3_environment: dict[str, str]
) -> None:
    url = f"s3://{BUCKET}/study"
    pushed = run(machines.study, tmp_path, "push", url, str(machines.study.file), **s3_environment)
    assert pushed.code == 0, pushed.stderr
    assert "Verified: 7 by the checksum that the place keeps." in pushed.stdout
    found = run(there, tmp_path, "pull", url, str(there.file), **s3_environment)
    assert found.code == 0, found.stderr
    assert archives_and_cell_pages(there.layout).items() >= archives_and_cell_pages(machines.study.layout).items()
    for text in (pushed.stdout, pushed.stderr, found.stdout, found.stderr):
        assert s3_environment["AWS_SECRET_ACCESS_KEY"] not in text
    without = {
        **s3_environment,
        "AWS_ACCESS_KEY_ID": "",
        "AWS_SECRET_ACCESS_KEY": "",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    message = refused(run(there, tmp_path, "push", url, str(there.file), **without))
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in message


def test_a_run_of_the_ui_pushes_its_cell(there: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKTRACKING_PUSH_URL", str(tmp_path / "bundles"))
    with there.active(), dg.instance_for_test() as instance:
        assert run_cell(instance, there.experiment(), Cell("attn_1", 1.0)).success
    content = open_location(str(tmp_path / "bundles"), "tiny").read_manifest()
    assert content is not None
    paths = set(read_manifest(content, experiment="tiny", where="there").by_path)
    assert paths == {*files(there.layout), "experiment.yaml", "constraints.txt"}


def test_a_place_that_hangs_is_waited_for_in_bounds(there: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = threading.Event()
    monkeypatch.setattr(pushing, "push_results", lambda experiment, url: hanging.wait())
    background = pushing.BackgroundPush(there.experiment(), "/nowhere")
    assert background.finish(0) is None  # nothing was asked for
    background.ask()
    assert "did not end within 0 s and was given up" in str(background.finish(0.2))
    hanging.set()
    assert background.finish() is None


def test_cells_that_finish_during_a_push_go_with_the_next_one(there: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    began, goes_on = threading.Semaphore(0), threading.Semaphore(0)
    calls = []

    def push_results(experiment: object, url: str) -> None:
        calls.append(url)
        began.release()
        goes_on.acquire()
        if len(calls) == 1:
            raise BundleError("The place is full.")

    monkeypatch.setattr(pushing, "push_results", push_results)
    background = pushing.BackgroundPush(there.experiment(), "/nowhere")
    background.ask()
    began.acquire()
    background.ask()
    background.ask()
    goes_on.release(2)
    assert background.finish() is None  # the second push caught up
    assert calls == ["/nowhere", "/nowhere"]
