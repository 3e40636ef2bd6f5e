"""Faults while completions are made: memory, non-finite numbers, changed weights, other devices, a clock set back."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import torch
from safetensors.torch import load_file, save_file

from backtracking_assets.assets import generating
from backtracking_assets.assets.checkpoint_watch import holding_checkpoint
from backtracking_assets.assets.contents import cell_report, sweep_report
from backtracking_assets.assets.generating import Generation, ensure_completions
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.page_files import report_path
from backtracking_assets.assets.stored_cells import checks_of
from backtracking_assets.errors import BacktrackingError, ChangedCheckpointError
from backtracking_assets.models import generation
from backtracking_assets.models.decoding import Decoding
from backtracking_assets.records import Cell
from backtracking_assets.reporting.sweep_report import render_sweep_report
from backtracking_assets.storage import queries
from backtracking_assets.storage.journal import finished_chunks
from backtracking_assets_tests.integration.processes import start_backtracking
from backtracking_assets_tests.integration.studies import Study, make_study, run_cell

CELL, BASELINE = Cell("both_0", 0.0), Cell("both_0", 1.0)
WEIGHTS = "model.safetensors"


@pytest.fixture
def study(tmp_path: Path, tiny_checkpoint: Path) -> Iterator[Study]:
    made = make_study(tmp_path / "study", tiny_checkpoint)
    with made.active():
        yield made


@pytest.fixture
def own_checkpoint(study: Study, tiny_checkpoint: Path) -> Path:
    """A copy of the checkpoint that a test may change; the experiment file names it."""
    copy = Path(shutil.copytree(tiny_checkpoint, study.home / "checkpoint"))
    study.document["model"]["path"] = str(copy)
    study.experiment()
    return copy


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def make(opened: OpenExperiment, run_id: str = "run", told: list[str] | None = None, cell: Cell = CELL) -> Generation:
    return ensure_completions(opened, cell, run_id=run_id, log=(told if told is not None else []).append)


def before_chunk(
    monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object], *, after: bool = False
) -> None:
    """Act right before (or after) the engine makes the chunk of this number, counted from 1."""
    engine, calls = generation.generate, [0]

    def observed(*arguments, **options):
        calls[0] += 1
        if calls[0] == number and not after:
            act()
        made = engine(*arguments, **options)
        if calls[0] == number and after:
            act()
        return made

    monkeypatch.setattr(generation, "generate", observed)


def failure(result: dg.ExecuteInProcessResult) -> str:
    (event,) = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data.user_failure_data
    assert data is not None
    return data.description or ""


# Memory


def test_a_chunk_that_does_not_fit_is_stored_with_its_batch_and_named_on_the_page(
    study: Study, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(self, *arguments, **options):
        if len(self.row_of_slot) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return prefill(self, *arguments, **options)

    prefill = Decoding.prefill
    with monkeypatch.context() as patch:
        patch.setattr(Decoding, "prefill", out_of_memory)
        experiment = study.experiment()
        assert run_cell(instance, experiment, BASELINE).success
    opened = study.opened()
    stored = queries.completions(study.layout, opened.condition(BASELINE).fingerprint)
    assert stored["batch_rows"].to_pylist() == [2] * 6
    page = report_path(opened, BASELINE).read_text(encoding="utf-8")
    # Chunks of four and two: only the first was computed in parts.
    assert "4 completions in 1 chunk were computed in smaller batches than their chunk" in page
    assert run_cell(instance, experiment, CELL).success
    assert "smaller batches" not in report_path(opened, CELL).read_text(encoding="utf-8")
    assert set(queries.completions(study.layout, opened.condition(CELL).fingerprint)["batch_rows"].to_pylist()) == {
        2,
        4,
    }


# Non-finite logits


def test_broken_weights_are_named(own_checkpoint: Path, study: Study, instance: dg.DagsterInstance) -> None:
    weights = load_file(own_checkpoint / WEIGHTS)
    name = "model.layers.1.mlp.down_proj.weight"
    weights[name][3, 5] = torch.nan
    save_file(weights, own_checkpoint / WEIGHTS, metadata={"format": "pt"})
    result = run_cell(instance, study.experiment(), BASELINE)
    assert not result.success
    assert (
        "finite_logits: 6 of 6 completions ended on NaN or infinite logits. The weights themselves hold NaN"
        in failure(result)
    )
    assert f"{name} is the first such tensor" in failure(result)


@pytest.mark.parametrize(
    ("subset", "block"), [("attn_1", "attention layer 1"), ("both_0", "attention layer 0")], ids=["one", "two"]
)
def test_an_extreme_scale_is_traced_to_the_first_block(
    study: Study, instance: dg.DagsterInstance, subset: str, block: str
) -> None:
    experiment = study.experiment(scales=[1e39, 1.0], plan=[{"layer_subsets": ["targeted"]}])
    result = run_cell(instance, experiment, Cell(subset, 1e39))
    assert not result.success
    said = f"the first output that is not finite is that of {block}, decode step 1, which is scaled by 1e+39."
    assert said in failure(result)
    (outcome,) = [o for o in checks_of(study.opened())[Cell(subset, 1e39)] if o.name == "finite_logits"]
    assert said in outcome.description
    # The completions are kept: each has the token that prefill gave.
    fingerprint = OpenExperiment(experiment).condition(Cell(subset, 1e39)).fingerprint
    stored = queries.completions(study.layout, fingerprint)
    assert set(stored["finish_reason"].to_pylist()) == {"non_finite"}
    assert set(stored["n_tokens"].to_pylist()) == {1}


# A checkpoint that changes


def _overwritten(checkpoint: Path) -> None:
    weights = load_file(checkpoint / WEIGHTS)
    weights = {name: tensor + 0.01 for name, tensor in weights.items()}
    save_file(weights, checkpoint / "other.tmp", metadata={"format": "pt"})
    data = (checkpoint / "other.tmp").read_bytes()
    (checkpoint / "other.tmp").unlink()
    before = (checkpoint / WEIGHTS).stat()
    with (checkpoint / WEIGHTS).open("r+b") as file:
        file.write(data)
    # As a copy that keeps times does: neither size nor modification time tells.
    os.utime(checkpoint / WEIGHTS, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (checkpoint / WEIGHTS).stat().st_size == before.st_size


def _renamed(checkpoint: Path) -> None:
    weights = load_file(checkpoint / WEIGHTS)
    save_file({n: t + 0.01 for n, t in weights.items()}, checkpoint / "other.tmp", metadata={"format": "pt"})
    (checkpoint / "other.tmp").replace(checkpoint / WEIGHTS)


def _truncated(checkpoint: Path) -> None:
    with (checkpoint / WEIGHTS).open("r+b") as file:
        file.truncate(1000)


def _config_changed(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    (checkpoint / "config.json").write_text(json.dumps({**config, "rope_theta": 5000.0}), encoding="utf-8")


CHANGES = {"in place": _overwritten, "by rename": _renamed, "configuration": _config_changed}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("after", [False, True], ids=["before the chunk", "after the chunk"])
def test_a_checkpoint_that_changes_under_a_cell_is_refused(
    own_checkpoint: Path,
    study: Study,
    change: Callable[[Path], None],
    after: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = study.opened()
    fingerprint = opened.condition(CELL).fingerprint
    former = {path.name: path.read_bytes() for path in own_checkpoint.iterdir()}
    with monkeypatch.context() as patch, holding_checkpoint(opened.checkpoint):
        before_chunk(patch, 2, lambda: change(own_checkpoint), after=after)
        with pytest.raises(ChangedCheckpointError) as refused:
            make(opened, "first")
        changed = "config.json" if change is _config_changed else WEIGHTS
        assert f"{own_checkpoint} has changed since this run began ({changed})" in str(refused.value)
        assert "finished before are safe: put the former files back and run the same command again" in str(
            refused.value
        )
        (chunk,) = finished_chunks(study.layout, fingerprint).values()
        assert chunk.num_rows == 4
        # The next cell of this sweep is not made from the changed weights either.
        with pytest.raises(ChangedCheckpointError, match=f"has changed since this run began \\({changed}\\)"):
            make(study.opened(), "first", cell=BASELINE)
        assert sorted(path.name for path in study.layout.journal.iterdir()) == [fingerprint]

    for name, data in former.items():
        (own_checkpoint / name).write_bytes(data)
    made = make(study.opened(), "second")
    assert made.condition.fingerprint == fingerprint
    assert made.n_generated == 2


def test_a_checkpoint_that_changes_under_a_running_sweep_ends_it_and_keeps_what_is_done(
    own_checkpoint: Path, study: Study, tmp_path: Path
) -> None:
    study.experiment(problems={"count": 5, "samples": 20}, generation={"completions_per_chunk": 5})
    running = start_backtracking("sweep", str(study.file), environment=study.environment, folder=tmp_path)
    deadline = time.monotonic() + 120
    while not list(study.layout.archive.glob("*.parquet")):
        assert time.monotonic() < deadline
        assert running.process.is_alive()
        time.sleep(0.02)
    _renamed(own_checkpoint)
    ended = running.wait()
    assert ended.code == 2
    assert "Traceback" not in ended.stdout + ended.stderr
    assert re.fullmatch(
        rf"Error: \S+ at [01]: The checkpoint {own_checkpoint} has changed since this run began \({WEIGHTS}\); .*\.\n",
        ended.stderr,
    )
    digests = {row["weights_digest"] for row in queries.conditions(study.layout).to_pylist()}
    assert len(digests) == 1
    assert digests != {study.opened().checkpoint.weights_digest}
    assert len(queries.cells(study.layout)) >= 1


def test_a_truncated_checkpoint_is_refused_too(
    own_checkpoint: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = study.opened()
    with monkeypatch.context() as patch:
        before_chunk(patch, 2, lambda: _renamed(own_checkpoint), after=True)  # the mapped file itself must stay whole
        patch.setattr(generating, "refuse_changed_checkpoint", _truncating(own_checkpoint))
        with pytest.raises(ChangedCheckpointError, match=re.escape(WEIGHTS)):
            make(opened)


def _truncating(checkpoint: Path) -> Callable[..., None]:
    calls = [0]
    check = generating.refuse_changed_checkpoint

    def truncate_first(*arguments) -> None:
        calls[0] += 1
        if calls[0] == 2:
            _truncated(checkpoint)
        check(*arguments)

    return truncate_first


def test_a_checkpoint_that_was_only_touched_goes_on(
    own_checkpoint: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_chunk(monkeypatch, 2, (own_checkpoint / WEIGHTS).touch, after=True)
    assert make(study.opened()).n_generated == 6


# Devices


def _on(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(generating, "device_name", lambda device: name)


def test_completions_of_two_kinds_of_device_are_named(
    study: Study, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    _on(monkeypatch, "NVIDIA A")
    experiment = study.experiment()
    with monkeypatch.context() as patch:
        before_chunk(patch, 2, lambda: _raise(RuntimeError("the machine is exchanged")))
        with pytest.raises(RuntimeError, match="exchanged"):
            make(study.opened(), cell=BASELINE)
    _on(monkeypatch, "NVIDIA B")
    assert run_cell(instance, experiment, BASELINE).success
    opened = study.opened()
    (outcome,) = [o for o in checks_of(opened)[BASELINE] if o.name == "one_kind_of_device"]
    assert (outcome.passed, outcome.severity) == (False, "warning")
    assert outcome.description.startswith("Completions were made on NVIDIA A (4) and NVIDIA B (2).")
    sentence = "The completions were made on 2 kinds of device, NVIDIA A and NVIDIA B"
    assert sentence in cell_report(opened, BASELINE, "run").provenance.remarks[0]
    assert sentence in report_path(opened, BASELINE).read_text(encoding="utf-8")
    page = render_sweep_report(sweep_report(opened, "run"))
    assert sentence in page
    assert "one_kind_of_device" in page


def _raise(error: BaseException) -> None:
    raise error


def test_one_kind_of_device_passes_its_check(study: Study, instance: dg.DagsterInstance) -> None:
    assert run_cell(instance, study.experiment(), BASELINE).success
    opened = study.opened()
    (outcome,) = [o for o in checks_of(opened)[BASELINE] if o.name == "one_kind_of_device"]
    assert outcome.passed
    assert cell_report(opened, BASELINE, "run").provenance.remarks == ()


@pytest.mark.parametrize("archived", [False, True], ids=["in the journal", "in the archive"])
def test_another_kind_of_device_is_refused_where_the_file_says_so(
    study: Study, archived: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _on(monkeypatch, "NVIDIA A")
    opened = study.opened()
    if archived:
        make(opened, "first")
        more = {"samples": 3}
    else:
        more = {}
        with monkeypatch.context() as patch:
            before_chunk(patch, 2, lambda: _raise(RuntimeError("stopped")))
            with pytest.raises(RuntimeError, match="stopped"):
                make(opened, "first")
    _on(monkeypatch, "NVIDIA B")
    engine = generation.generate
    monkeypatch.setattr(generation, "generate", lambda *arguments, **options: pytest.fail("it generated"))
    with pytest.raises(BacktrackingError) as refused:
        make(study.opened(generation={"mixed_devices": "refuse"}, problems=more), "second")
    for part in (
        "made on NVIDIA A",
        "made on NVIDIA B",
        "nothing was generated",
        "what is there is safe",
        "NVIDIA A, or",
    ):
        assert part in str(refused.value)
    monkeypatch.setattr(generation, "generate", engine)
    told: list[str] = []
    made = make(study.opened(generation={"mixed_devices": "allow"}, problems=more), "third", told)
    assert made.n_generated == (3 if archived else 2)
    assert any(
        "holds completions made on NVIDIA A; those that are missing are made on NVIDIA B" in line for line in told
    )


# The clock


def test_a_clock_that_is_set_back_breaks_nothing(
    study: Study, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock goes back by a day between any two looks at it; files get times of the past as well."""
    start, looks = datetime.now(UTC), [0]

    class Backwards(datetime):
        @classmethod
        def now(cls, tz=None):
            looks[0] += 1
            return start - timedelta(days=looks[0])

    monkeypatch.setattr(generating, "datetime", Backwards)
    experiment = study.experiment()
    with monkeypatch.context() as patch:
        before_chunk(patch, 2, lambda: _raise(RuntimeError("stopped")))
        with pytest.raises(RuntimeError, match="stopped"):
            make(study.opened(), "first", cell=BASELINE)
    for days, path in enumerate(sorted(study.layout.journal.rglob("*.*"))):
        os.utime(path, (days * 86400, days * 86400))
    assert run_cell(instance, experiment, BASELINE).success
    opened = study.opened()
    stored = queries.completions(study.layout, opened.condition(BASELINE).fingerprint)
    assert looks == [2]
    assert all(seconds > 0 for seconds in stored["chunk_seconds"].to_pylist())
    provenance = cell_report(opened, BASELINE, "run").provenance
    assert provenance.generated_from == start - timedelta(days=2)
    assert provenance.generated_until == start - timedelta(days=1)
    assert provenance.tokens_per_second is not None
    assert provenance.tokens_per_second > 0
    (row,) = queries.conditions(study.layout).to_pylist()
    assert row["created_at"] == start - timedelta(days=2)
    assert make(study.opened(), "again", cell=BASELINE).n_generated == 0
