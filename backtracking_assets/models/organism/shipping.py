"""The organism's checkpoint folder: what is in it, and how it comes into being in one piece."""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from backtracking_assets.models.organism.behavior import Behavior, measure_behavior
from backtracking_assets.models.organism.known_truth import measure_known_truth
from backtracking_assets.models.organism.model_card import model_card
from backtracking_assets.models.organism.network import OrganismNetwork
from backtracking_assets.models.organism.recipe import Recipe, Shape, organism_components
from backtracking_assets.models.organism.vocabulary import EOS_ID, LONGEST_TEXT, PAD_ID, write_tokenizer

CHECKSUMS = "SHA256SUMS"


def refuse_occupied(out: Path) -> None:
    """Raise ValueError if ``out`` exists and is not an empty folder."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder: choose another folder, or remove it first")


def write_checkpoint(
    out: Path, network: OrganismNetwork, before_planting: Mapping[str, Tensor], recipe: Recipe
) -> None:
    """Measure a trained organism and write its checkpoint folder, whole or not at all.

    Raises ValueError if ``out`` exists and is not an empty folder.
    """
    refuse_occupied(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        weights = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
        save_file(weights, temporary / "model.safetensors", metadata={"format": "pt"})
        save_file(dict(before_planting), temporary / "base_components.safetensors", metadata={"format": "pt"})
        qwen2_config(recipe.shape).save_pretrained(temporary)
        settings = recipe.measurement
        generation = GenerationConfig(eos_token_id=EOS_ID, pad_token_id=PAD_ID, max_new_tokens=settings.max_new_tokens)
        generation.save_pretrained(temporary)
        write_tokenizer(temporary)

        truth = measure_known_truth(network, before_planting, recipe)
        (temporary / "known_truth.json").write_text(truth.model_dump_json(indent=2) + "\n", encoding="utf-8")
        model = Qwen2ForCausalLM.from_pretrained(temporary)
        behaviors = _measure_behaviors(model.eval(), recipe)
        (temporary / "README.md").write_text(model_card(recipe, truth, behaviors), encoding="utf-8")
        (temporary / CHECKSUMS).write_text(checksums(temporary), encoding="utf-8")

        # Temporary folders and safetensors files are made for their owner alone.
        temporary.chmod(0o755)
        for path in temporary.iterdir():
            path.chmod(0o644)
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def qwen2_config(shape: Shape) -> Qwen2Config:
    """Return the configuration with which ``transformers`` loads a network of this shape."""
    return Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        intermediate_size=shape.intermediate,
        max_position_embeddings=LONGEST_TEXT,
        rms_norm_eps=shape.norm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
        dtype="float32",
    )


def checksums(folder: Path) -> str:
    """Return the text of ``SHA256SUMS``, which ``sha256sum -c`` reads: all files of a folder but itself."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != CHECKSUMS)
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)


def _measure_behaviors(model: Qwen2ForCausalLM, recipe: Recipe) -> list[Behavior]:
    planted = recipe.planted
    attention = [component for component in planted if component.component == "attention"]
    mlps = [component for component in planted if component.component == "mlp"]
    draws = [organism_components(attention=layers) for layers in recipe.measurement.other_attention]
    return [
        measure_behavior(model, recipe, "nothing scaled"),
        *(measure_behavior(model, recipe, "planted attention", attention, scale) for scale in (0.75, 0.5, 0.25, 0.0)),
        *(measure_behavior(model, recipe, "planted MLPs", mlps, scale) for scale in (0.5, 0.0)),
        measure_behavior(model, recipe, "all planted", planted, 0.0),
        *(measure_behavior(model, recipe, ", ".join(map(str, draw)), draw, 0.0) for draw in draws),
    ]
