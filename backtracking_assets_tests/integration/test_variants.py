"""Phase 1's prompt variants: made beside the sweep's baseline, which shares its condition with one of them."""

import io
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

import dagster as dg
import pytest
from rich.console import Console

from backtracking_assets.assets.generating import ensure_completions, ensure_condition, link_to_completions
from backtracking_assets.assets.jobs import VARIANTS_JOB
from backtracking_assets.assets.measuring import measure_variant, read_cell, read_variant
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.stored_cells import current_cells
from backtracking_assets.assets.stored_variants import (
    current_variant,
    current_variants,
    detected_variant,
    linked_variant,
    metrics_of_variant,
    problems_outside_sweep,
    variant_checks_of,
    variants_of,
)
from backtracking_assets.assets.variant_status import variants_status
from backtracking_assets.assets.variants_from_store import record_variants
from backtracking_assets.cli.instance import open_instance
from backtracking_assets.cli.rebuild_database import run_rebuild
from backtracking_assets.cli.status import show_status
from backtracking_assets.cli.sweep import run_sweep
from backtracking_assets.definitions import build_definitions
from backtracking_assets.errors import ExperimentError, StorageError
from backtracking_assets.experiment import Experiment
from backtracking_assets.models import generation
from backtracking_assets.records import Cell, Variant
from backtracking_assets.storage import queries
from backtracking_assets.storage.rows import Key, keys_of
from backtracking_assets_tests.integration.studies import QUIET, Study, content, make_study
from backtracking_assets_tests.tiny import write_problems

BASELINE = Cell("attn_1", 1.0)
PLAIN = Variant("plain")
TEXTS = {"plain": "Q: {question}\n", "short": "{question}=", "long": "Question: {question}\nA:"}
SECTIONS: dict[str, Any] = {
    "prompting": {"variants": TEXTS},
    "phase1": {"count": 5, "samples": 2, "compare": "attn_1"},
    "plan": [{"layer_subsets": ["attn_1"]}, {"layer_subsets": ["random"], "scales": [0.0]}],
    # Letters that the random model happens to write as words of their own: what is the same everywhere is refused.
    "detection": {"strict": ["B", "S", "o", "d", "x"]},
}


def make_phase1_study(home: Path, checkpoint: Path) -> Study:
    """A study with three prompt variants on five problems, of which the sweep uses three."""
    study = make_study(home, checkpoint)
    write_problems(study.problems, 7)
    study.experiment(**SECTIONS)
    return study


@pytest.fixture
def study(tmp_path: Path, tiny_checkpoint: Path) -> Iterator[Study]:
    made = make_phase1_study(tmp_path / "study", tiny_checkpoint)
    with made.active():
        yield made


def run_variant(instance: dg.DagsterInstance, experiment: Experiment, name: str) -> dg.ExecuteInProcessResult:
    """Materialize a prompt variant's three assets, and nothing else, in this process."""
    job = build_definitions(experiment).resolve_job_def(VARIANTS_JOB)
    return job.execute_in_process(instance=instance, partition_key=name, run_config=QUIET, raise_on_error=False)


def make_variant(opened: OpenExperiment, name: str = "plain", run_id: str = "phase 1") -> int:
    """How many completions were generated."""
    own = opened.for_variant(name)
    made = ensure_condition(own, own.baseline, Variant(name), run_id=run_id, log=lambda message: None)
    link_to_completions(own, Variant(name), made.condition.fingerprint, run_id=run_id)
    return made.n_generated


def make_baseline(opened: OpenExperiment, run_id: str = "sweep") -> int:
    return ensure_completions(opened, BASELINE, run_id=run_id, log=lambda message: None).n_generated


def made_by(opened: OpenExperiment) -> dict[Key, str]:
    rows = queries.completions(opened.layout, opened.condition(BASELINE).fingerprint)
    return dict(zip(keys_of(rows), rows["run_id"].to_pylist(), strict=True))


def interrupt_at_chunk(patch: pytest.MonkeyPatch, number: int) -> None:
    """Have the engine stop when it is asked for so many batches."""
    engine, calls = generation.generate, count(1)

    def interrupted(*arguments, **options):
        if next(calls) == number:
            raise KeyboardInterrupt
        return engine(*arguments, **options)

    patch.setattr(generation, "generate", interrupted)


def test_the_sweeps_problems_are_the_first_of_phase_1(study: Study) -> None:
    opened = study.opened(**SECTIONS)
    own = opened.for_variant("plain")
    assert list(own.problems)[:3] == list(opened.problems)
    assert list(problems_outside_sweep(opened)) == list(own.problems)[3:]
    assert own.layout.root == opened.layout.root
    assert own.baseline == opened.condition(BASELINE)
    fingerprints = {opened.for_variant(name).baseline.fingerprint for name in TEXTS}
    assert len(fingerprints) == 3
    assert [variant.name for variant in variants_of(opened.experiment)] == ["plain", "short", "long"]


def test_a_baseline_after_phase_1_links_what_is_there(study: Study) -> None:
    opened = study.opened(**SECTIONS)
    assert make_variant(opened) == 10
    assert make_baseline(opened) == 0
    rows = {row["layer_subset"]: row for row in queries.cells(study.layout).to_pylist()}
    assert (rows["attn_1"]["n_completions"], rows["attn_1"]["linked"]) == (6, True)
    assert set(made_by(opened).values()) == {"phase 1"}
    read_cell(opened, BASELINE, "sweep")
    (cell,) = current_cells(opened, [BASELINE])
    assert set(keys_of(cell.completions)) == set(keys_of(cell.detections)) == set(opened.keys())


def test_phase_1_after_a_baseline_keeps_it_and_adds_what_is_missing(study: Study) -> None:
    opened = study.opened(**SECTIONS)
    assert make_baseline(opened) == 6
    read_cell(opened, BASELINE, "sweep")
    assert make_variant(opened) == 4
    assert made_by(opened) == {
        **dict.fromkeys(opened.keys(), "sweep"),
        **{key: "phase 1" for key in opened.for_variant("plain").keys() if key not in opened.keys()},  # noqa: SIM118
    }
    # What the cell was read for stands as it was, and its own completions are all that it has.
    (cell,) = current_cells(opened, [BASELINE])
    assert cell.completions.num_rows == 6
    assert linked_variant(opened, "plain").completions.num_rows == 10
    assert variants_status(opened)[0].reason == "the completions are not read for triggers and answers"


def test_a_sweep_goes_on_with_chunks_that_phase_1_planned(study: Study, tmp_path: Path, tiny_checkpoint: Path) -> None:
    """The second chunk holds a problem of the sweep and one that is held out: it is made as it was planned."""
    opened = study.opened(**SECTIONS)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at_chunk(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            make_variant(opened)
    assert make_baseline(opened) == 4
    assert make_variant(opened, run_id="phase 1 again") == 2
    assert sorted(made_by(opened).values()) == ["phase 1"] * 4 + ["phase 1 again"] * 2 + ["sweep"] * 4

    other = make_phase1_study(tmp_path / "other", tiny_checkpoint)
    fingerprint = opened.condition(BASELINE).fingerprint
    with other.active():
        make_variant(other.opened(**SECTIONS))
        uninterrupted = content(other.layout, fingerprint)
    assert content(study.layout, fingerprint).equals(uninterrupted)


def test_a_variant_is_materialized_alone_and_measured(short_done: Study) -> None:
    with short_done.active(), open_instance() as instance:
        opened = short_done.opened(**SECTIONS)
        assert [stored.variant.name for stored in current_variants(opened)] == ["short"]
        stored = detected_variant(opened, "short")
        assert stored.completions.num_rows == stored.detections.num_rows == 10
        rates = {row["metric"]: row for row in metrics_of_variant(opened, stored.variant).to_pylist()}
        expected = fmean(stored.detections["has_strict"].to_pylist())
        assert rates["strict_rate"]["estimate"] == pytest.approx(expected)
        assert (rates["strict_rate"]["n"], rates["strict_rate"]["n_problems"]) == (10, 5)
        assert rates["mean_tokens"]["estimate"] == pytest.approx(fmean(stored.completions["n_tokens"].to_pylist()))
        # A Dagster that knows nothing of it is told, as of cells; once.
        wanted = dg.AssetRecordsFilter(dg.AssetKey(["tiny", "variant_metrics"]), asset_partitions=["short"])
        assert len(instance.fetch_materializations(wanted, limit=2).records) == 1
        assert record_variants(instance, opened) == []
        with dg.DagsterInstance.ephemeral() as other:
            assert record_variants(other, opened) == [
                (asset, stored.variant) for asset in ("variant_generations", "variant_detections", "variant_metrics")
            ]
            assert record_variants(other, opened) == []


def test_accuracy_not_above_shuffled_answers_fails_the_sweeps_variant_alone(study: Study) -> None:
    experiment = study.experiment(**SECTIONS, checks={"accuracy_above_shuffled": "block"})
    with open_instance() as instance:
        assert not run_variant(instance, experiment, "plain").success
    opened = OpenExperiment(experiment)
    make_variant(opened, "long")
    read_variant(opened, "long", "run")
    measure_variant(opened, "long", "run")
    severities = {
        variant.name: outcome.severity
        for variant, outcomes in variant_checks_of(opened, "variant_metrics").items()
        for outcome in outcomes
    }
    assert severities == {"plain": "error", "long": "warning"}
    assert current_variant(opened, "plain") is None
    assert "accuracy_above_shuffled fails" in variants_status(opened)[0].reason


@pytest.mark.parametrize(
    ("changes", "reason", "then"),
    [
        ({}, "", ""),
        ({"phase1": {"count": 6}}, "problems: 1 added", "generates 2, keeps 10"),
        ({"phase1": {"samples": 1}}, "samples: 2 → 1 a problem", "links and reads anew"),
        (
            {"prompting": {"variants": {**TEXTS, "short": "{question} ="}}},
            "prompt: text of the variant",
            "generates 10",
        ),
        ({"detection": {"strict": ["Hmm"]}}, "detection: strict triggers +Hmm -B -S -o -d -x", "reads anew"),
        ({"statistics": {"confidence": 0.8}}, "statistics: confidence 0.95 → 0.8", "measures anew"),
    ],
)
def test_the_status_says_what_has_changed(short_done: Study, changes: dict[str, Any], reason: str, then: str) -> None:
    merged = {**SECTIONS, **changes}
    if "phase1" in changes:
        merged["phase1"] = {**SECTIONS["phase1"], **changes["phase1"]}
    with short_done.active():
        by_name = {status.variant.name: status for status in variants_status(short_done.opened(**merged))}
    assert (by_name["short"].reason, by_name["short"].next) == (reason, then)
    assert by_name["long"].state == "missing"


@pytest.fixture(scope="module")
def short_done(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Study:
    """A study whose variant `short` is done."""
    made = make_phase1_study(tmp_path_factory.mktemp("status"), tiny_checkpoint)
    with made.active(), open_instance() as instance:
        assert run_variant(instance, made.experiment(**SECTIONS), "short").success
    return made


def test_what_is_not_there_is_refused_in_a_sentence(study: Study) -> None:
    opened = study.opened(**SECTIONS)
    with pytest.raises(StorageError, match="Prompt variant short has no completions yet; materialize its variant_gen"):
        linked_variant(opened, "short")
    with pytest.raises(ExperimentError, match=r"There is no prompt variant 'shrt' \(did you mean short"):
        linked_variant(opened, "shrt")
    make_variant(opened, "short")
    with pytest.raises(StorageError, match="Prompt variant short is not read by the rules"):
        detected_variant(opened, "short")
    other = study.opened(**{**SECTIONS, "phase1": {**SECTIONS["phase1"], "samples": 1}})
    with pytest.raises(StorageError, match="Prompt variant short holds completions that the experiment does not ask"):
        linked_variant(other, "short")


def test_the_command_line_does_phase_1_and_what_is_missing_of_it(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(job: str) -> str:
        said = io.StringIO()
        assert run_sweep(str(study.file), [], [], job, Console(file=said, width=200)) == 0, said.getvalue()
        return said.getvalue()

    def states() -> dict[str, str]:
        capsys.readouterr()
        show_status(str(study.file), True, Console())
        document = json.loads(capsys.readouterr().out)
        cells = {f"{row['layer_subset']} at {row['scale']:g}": row["state"] for row in document["cells"]}
        return {**{row["variant"]: row["state"] for row in document["variants"]}, **cells}

    assert set(states().values()) == {"missing"}
    said = run("phase1")
    assert "tiny: 3 prompt variants of 10 completions, 0 done before, 3 to do." in said
    assert "tiny: 3 cells of 6 completions, 0 done before, 3 to do." in said
    assert states() == dict.fromkeys(
        ["plain", "short", "long", "attn_1 at 0", "attn_1 at 1", "random_1_of_attn_1 at 0"], "done"
    )
    generated = queries.completion_counts(study.layout)
    assert sorted(generated.values()) == [6, 6, 10, 10, 10]  # the baseline's cell has generated nothing

    study.experiment(**{**SECTIONS, "prompting": {"variants": {**TEXTS, "long": "{question}?"}}})
    assert {name for name, state in states().items() if state != "done"} == {"long"}
    said = run("full_study")
    assert "tiny: 3 prompt variants of 10 completions, 2 done before, 1 to do." in said
    assert sorted(queries.completion_counts(study.layout).values()) == [6, 6, 10, 10, 10, 10]
    assert set(states().values()) == {"done"}

    rebuilt = io.StringIO()
    assert run_rebuild(str(study.file), Console(file=rebuilt, width=200)) == 0
    assert "3 prompt variants restored." in rebuilt.getvalue()
    assert set(states().values()) == {"done"}

    study.experiment(plan=SECTIONS["plan"])
    with pytest.raises(ExperimentError, match="has no section phase1, which says on how many problems"):
        run("phase1")
