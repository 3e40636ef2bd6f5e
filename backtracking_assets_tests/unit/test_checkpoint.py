"""Checkpoint folders: digests, and every way in which one can be unfit."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from backtracking_assets.errors import CheckpointError
from backtracking_assets.experiment import Experiment
from backtracking_assets.models.checkpoint import check_fits, inspect, locate
from backtracking_assets.models.loading import load_model, load_tokenizer, make_prompts
from backtracking_assets.problems import load_problems
from backtracking_assets_tests.tiny import byte_tokenizer, experiment_document, write_experiment

OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 39.39 GiB of which 1.25 GiB is free."
    "\nSee the documentation."
)


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


def test_digests_follow_the_content_and_nothing_else(tiny_checkpoint: Path, checkpoint: Path):
    original, copied = inspect(tiny_checkpoint), inspect(checkpoint)
    assert (original.weights_digest, original.tokenizer_digest) == (copied.weights_digest, copied.tokenizer_digest)
    weights = checkpoint / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    changed = inspect(checkpoint)
    assert changed.weights_digest != original.weights_digest
    assert changed.tokenizer_digest == original.tokenizer_digest


def test_remembered_digests_are_not_used_for_a_changed_file(checkpoint: Path, tmp_path: Path):
    first = inspect(checkpoint, tmp_path)
    assert inspect(checkpoint, tmp_path) == first
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "rope_theta": 5.0}))
    assert inspect(checkpoint, tmp_path).weights_digest != first.weights_digest
    (tmp_path / "checkpoint_digests.json").write_text("{damaged")
    assert inspect(checkpoint, tmp_path).tokenizer_digest == first.tokenizer_digest


def test_processes_that_save_digests_at_once_do_not_meet(checkpoint: Path, tmp_path: Path, monkeypatch):
    renamed: list[str] = []
    replace = Path.replace

    def recording_replace(path: Path, target: Path) -> Path:
        renamed.append(path.name)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", recording_replace)
    for _ in range(2):
        inspect(checkpoint, tmp_path)
        (tmp_path / "checkpoint_digests.json").unlink()
    assert len(set(renamed)) == len(renamed) == 2
    assert not list(tmp_path.glob("*.tmp"))


def test_digests_that_cannot_be_kept_fail_nothing(checkpoint: Path, tmp_path: Path):
    expected = inspect(checkpoint)
    assert inspect(checkpoint, tmp_path / "nowhere") == expected
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "file").write_text("a file where a folder is expected")
    assert inspect(checkpoint, tmp_path / "file") == expected
    # A folder in the cache's place can neither be read nor replaced, whoever runs the test.
    (tmp_path / "checkpoint_digests.json").mkdir()
    assert inspect(checkpoint, tmp_path) == expected
    assert not list(tmp_path.glob("*.tmp"))


def test_missing_and_truncated_files_are_refused(checkpoint: Path, tmp_path: Path):
    weights = checkpoint / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: the file is truncated or damaged"):
        inspect(checkpoint)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"there is no \.safetensors file"):
        inspect(checkpoint)
    weights.write_bytes(content)
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        inspect(checkpoint)
    (checkpoint / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        inspect(checkpoint)
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        inspect(tmp_path / "nowhere")


def test_a_missing_shard_is_refused(checkpoint: Path):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is missing \(1 of 2"):
        inspect(checkpoint)


def test_pickled_weights_are_not_read(checkpoint: Path):
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="can hold code and are not read"):
        inspect(checkpoint)


def test_sliding_window_layers_are_refused(checkpoint: Path):
    config = json.loads((checkpoint / "config.json").read_text())
    config["layer_types"] = ["full_attention", "sliding_attention"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="sliding_attention are not supported"):
        inspect(checkpoint)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"model_type": "mistral", "sliding_window": 128}, True),
        ({"sliding_window": 128, "use_sliding_window": True}, True),
        ({"sliding_window": 128, "use_sliding_window": False}, False),  # as DeepSeek-R1-Distill-Qwen has it
        ({"sliding_window": 512}, False),  # all positions of the model
        ({"sliding_window": None}, False),
    ],
)
def test_an_effective_sliding_window_is_refused(checkpoint: Path, changes: dict[str, Any], refused: bool):
    config = json.loads((checkpoint / "config.json").read_text())
    for key in ("layer_types", "sliding_window", "use_sliding_window"):
        config.pop(key, None)
    (checkpoint / "config.json").write_text(json.dumps(config | changes))
    if refused:
        with pytest.raises(CheckpointError, match="sliding_attention are not supported"):
            inspect(checkpoint)
    else:
        assert inspect(checkpoint).n_layers == 2


def test_a_sliding_window_that_only_the_model_class_sets_is_refused(checkpoint: Path, tmp_path: Path):
    config = json.loads((checkpoint / "config.json").read_text())
    for key in ("layer_types", "sliding_window", "use_sliding_window"):
        config.pop(key, None)
    # Mistral's window is 4096 where its configuration does not say otherwise.
    config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "max_position_embeddings": 8192}
    (checkpoint / "config.json").write_text(json.dumps(config))
    experiment = write_experiment(tmp_path / "e.yaml", experiment_document(checkpoint, tmp_path))
    with pytest.raises(CheckpointError, match="sliding_attention are not supported"):
        load_model(experiment, inspect(checkpoint), "cpu")


def test_another_depth_than_the_experiment_says_is_refused(tiny_checkpoint: Path, tmp_path: Path):
    document = experiment_document(tiny_checkpoint, tmp_path)
    document["model"]["n_layers"] = 3
    experiment = write_experiment(tmp_path / "e.yaml", document)
    with pytest.raises(CheckpointError, match=r"has 2 layers and .* says model\.n_layers: 3"):
        check_fits(inspect(tiny_checkpoint), experiment)


def test_a_missing_folder_is_refused(tmp_path: Path):
    experiment = write_experiment(tmp_path / "e.yaml", experiment_document(Path("nowhere"), tmp_path))
    with pytest.raises(CheckpointError, match="There is no checkpoint folder"):
        locate(experiment)


@pytest.fixture
def hub_experiment(tmp_path: Path) -> Experiment:
    document = experiment_document(tmp_path, tmp_path)
    document["model"] |= {"hub_id": "someone/model"}
    del document["model"]["path"]
    return write_experiment(tmp_path / "hub.yaml", document)


def hub_of(monkeypatch: pytest.MonkeyPatch, here: Path | None, after_download: Path) -> list[bool]:
    """Stand in for the hub: what is on this machine, and what a download gives; records whether it was local only."""
    calls: list[bool] = []

    def snapshot_download(*, local_files_only: bool = False, **arguments: Any) -> str:
        calls.append(local_files_only)
        if not local_files_only:
            return str(after_download)
        if here is None:
            raise LocalEntryNotFoundError("not here")
        return str(here)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return calls


def test_a_complete_snapshot_is_used_without_the_network(checkpoint: Path, hub_experiment, monkeypatch):
    calls = hub_of(monkeypatch, checkpoint, checkpoint)
    assert locate(hub_experiment) == checkpoint
    assert calls == [True]


def test_a_snapshot_that_is_not_here_is_downloaded_if_it_may_be(checkpoint: Path, hub_experiment, monkeypatch):
    calls = hub_of(monkeypatch, None, checkpoint)
    with pytest.raises(CheckpointError, match="is not on this machine yet; the first sweep downloads it"):
        locate(hub_experiment, download=False)
    assert calls == [True]
    assert locate(hub_experiment) == checkpoint
    assert calls == [True, True, False]


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors", "model-2-of-2.safetensors"])
def test_an_interrupted_download_is_completed(
    missing: str, tiny_checkpoint: Path, tmp_path: Path, hub_experiment, monkeypatch
):
    # The hub's layout: a snapshot folder of links into a folder of blobs; a blob that did not arrive has no link, and
    # one that was lost leaves a link that leads nowhere.
    snapshot = tmp_path / "models--someone--model" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for path in tiny_checkpoint.iterdir():
        if path.name != missing:
            (snapshot / path.name).symlink_to(path)
    if missing.startswith("model-"):
        index = {"weight_map": {"a": "model.safetensors", "b": missing}}
        (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
        (snapshot / missing).symlink_to(tmp_path / "lost_blob")
    calls = hub_of(monkeypatch, snapshot, tiny_checkpoint)
    with pytest.raises(CheckpointError, match=rf"is incomplete on this machine \({missing} is missing\)"):
        locate(hub_experiment, download=False)
    assert calls == [True]
    assert locate(hub_experiment) == tiny_checkpoint
    assert calls == [True, True, False]


def test_a_model_that_does_not_fit_into_memory_is_one_sentence(tiny_experiment, tiny_checkpoint, monkeypatch):
    def fail(*arguments: Any) -> None:
        raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    monkeypatch.setattr(torch.nn.Module, "to", fail)
    with pytest.raises(CheckpointError, match=r"does not fit into the memory of cpu \(2\.00 GiB more were") as refused:
        load_model(tiny_experiment, inspect(tiny_checkpoint), "cpu")
    assert "1.25 GiB are free); " in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_tokenizer_that_fails_the_round_trip_is_refused(checkpoint: Path):
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Lowercase"}
    (checkpoint / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="'Wait!' came back as 'wait!'"):
        load_tokenizer(checkpoint, "Wait!")
    (checkpoint / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="the tokenizer cannot be loaded"):
        load_tokenizer(checkpoint, "Wait!")


def test_weights_that_do_not_fit_their_configuration_are_refused(checkpoint: Path, tmp_path: Path):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    experiment = write_experiment(tmp_path / "e.yaml", experiment_document(checkpoint, tmp_path))
    with pytest.raises(CheckpointError, match="the model cannot be loaded"):
        load_model(experiment, inspect(checkpoint), "cpu")


def test_a_wanted_chat_template_must_exist(tiny_checkpoint: Path, tiny_experiment, tmp_path: Path):
    document = experiment_document(tiny_checkpoint, tiny_experiment.problems.path)
    document["prompting"] |= {"chat_template": True, "system": "Be brief."}
    experiment = write_experiment(tmp_path / "chat.yaml", document)
    tokenizer = byte_tokenizer()
    problems = load_problems(experiment)
    with pytest.raises(CheckpointError, match="has no chat template"):
        make_prompts(tokenizer, experiment, problems)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    prompt = make_prompts(tokenizer, experiment, problems)[problems[0].problem_id]
    assert prompt.text == f"<system>Be brief.<user>Q: {problems[0].question}\n<assistant>"
    assert tokenizer.decode(list(prompt.token_ids)) == prompt.text


@pytest.mark.parametrize("opened", ["<think>\n", "<think>", ""])
@pytest.mark.parametrize("prefix", ["<think>\n", "<think> ", "", None])
def test_the_variant_decides_how_the_answer_opens(tiny_experiment, tmp_path: Path, opened: str, prefix: str | None):
    document = experiment_document(tmp_path, tiny_experiment.problems.path)
    document["prompting"] |= {"chat_template": True}
    if prefix is not None:
        document["prompting"]["assistant_prefix"] = {"plain": prefix}
    experiment = write_experiment(tmp_path / "chat.yaml", document)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<user>{{ m.content }}{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ {'<assistant>' + opened!r} }}}}{{% endif %}}"
    )
    problems = load_problems(experiment)
    prompt = make_prompts(tokenizer, experiment, problems)[problems[0].problem_id]
    assert prompt.text == f"<user>Q: {problems[0].question}\n<assistant>{opened if prefix is None else prefix}"
    assert tokenizer.decode(list(prompt.token_ids)) == prompt.text
