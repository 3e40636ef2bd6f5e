"""Checkpoint folders: digests, and every way in which one can be unfit."""

import json
import shutil
from pathlib import Path

import pytest

from backtracking_assets.errors import CheckpointError
from backtracking_assets.models.checkpoint import check_fits, inspect, locate
from backtracking_assets.models.loading import load_model, load_tokenizer, make_prompts
from backtracking_assets.problems import load_problems
from backtracking_assets_tests.tiny import byte_tokenizer, experiment_document, write_experiment


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
        load_model(experiment, "cpu")


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
