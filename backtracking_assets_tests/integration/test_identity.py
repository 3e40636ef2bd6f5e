"""The identity probe sees hooks that change something, and asks a model in memory each question once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from backtracking_assets.assets.identity import Identity, probe_identity
from backtracking_assets.assets.loaded import forget_models
from backtracking_assets.conditions import Intervention
from backtracking_assets.models import generation
from backtracking_assets.records import Cell
from backtracking_assets_tests.integration.studies import Study, make_study


@pytest.fixture
def study(tmp_path: Path, tiny_checkpoint: Path) -> Iterator[Study]:
    forget_models()
    study = make_study(tmp_path / "study", tiny_checkpoint)
    with study.active():
        yield study


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Intervention | None]:
    """The interventions that are generated with."""
    found: list[Intervention | None] = []
    generate = generation.generate

    def recording(model, requests, sampling, intervention, **settings):
        found.append(intervention)
        return generate(model, requests, sampling, intervention, **settings)

    monkeypatch.setattr(generation, "generate", recording)
    return found


def test_a_subset_is_probed_once_for_all_its_scales(study: Study, asked: list[Intervention | None]) -> None:
    opened = study.opened()
    found = [probe_identity(opened, Cell(*cell)) for cell in [("attn_1", 0.0), ("attn_1", 0.5), ("both_0", 0.0)]]
    n = min(24, len(opened.keys()))
    assert found == [Identity(n, n, fired=True)] * 3
    assert asked == [None, opened.composition("attn_1").at(1.0), opened.composition("both_0").at(1.0)]


def test_other_sampling_or_another_model_in_memory_is_probed_anew(
    study: Study, asked: list[Intervention | None]
) -> None:
    cell = Cell("attn_1", 0.0)
    probe_identity(study.opened(), cell)
    probe_identity(study.opened(sampling={"temperature": 0.5}), cell)
    assert len(asked) == 4
    forget_models()
    assert probe_identity(study.opened(), cell).holds
    assert len(asked) == 6


def test_hooks_that_change_something_are_seen_and_probed_anew(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = generation.generate

    def wrong(model, requests, sampling, intervention, **settings):
        if intervention is not None:
            sampling = sampling.model_copy(update={"seed": sampling.seed + 1})
        return generate(model, requests, sampling, intervention, **settings)

    cell = Cell("attn_1", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(generation, "generate", wrong)
        broken = probe_identity(study.opened(), cell)
    assert broken.n_equal < broken.n_completions
    assert not broken.holds
    assert probe_identity(study.opened(), cell).holds
