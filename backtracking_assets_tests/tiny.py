"""Checkpoints and experiments that are made here: random weights, real formats, a second to generate."""

from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from backtracking_assets.experiment import Experiment
from backtracking_assets.experiment_file import load_experiment

SPECIAL = ("<pad>", "<eos>")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that many characters span several tokens."""
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def make_checkpoint(folder: Path, family: str = "qwen2", n_layers: int = 2, seed: int = 0) -> Path:
    """A random checkpoint of the given family, with weights large enough that its tokens vary."""
    tokenizer = byte_tokenizer()
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "initializer_range": 0.3,
    }
    torch.manual_seed(seed)
    model = {
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False)),
    }[family]()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def experiment_document(checkpoint: Path, problems: Path) -> dict[str, Any]:
    """An experiment of four cells and two controls on a tiny checkpoint, as it stands in a YAML file."""
    return {
        "name": "tiny",
        "title": "A random model",
        "model": {
            "path": str(checkpoint),
            "dtype": "float32",
            "device": "cpu",
            "n_layers": 2,
            "round_trip": "Wait, ü!",
        },
        "problems": {"path": str(problems), "count": 3, "seed": 1, "samples": 2},
        "prompting": {"chat_template": False, "variant": "plain", "variants": {"plain": "Q: {question}\n"}},
        "sampling": {"temperature": 1.0, "top_p": 0.95, "max_new_tokens": 12, "seed": 7},
        "generation": {"completions_per_chunk": 4, "threads": 1},
        "layer_subsets": {"attn_1": {"attention": [1]}, "both_0": {"attention": [0], "mlp": [0]}},
        "scales": [0.0, 1.0],
        "controls": {"random": [{"of": "attn_1", "draws": 1, "seed": 3}]},
        "plan": [{"layer_subsets": ["targeted"]}, {"layer_subsets": ["random"], "scales": [0.0]}],
        "detection": {"strict": ["Wait"], "relaxed": ["mistake"]},
        "statistics": {"resamples": 200},
        "checks": {"accuracy_above_shuffled": "warn"},
    }


def write_problems(path: Path, n: int = 5) -> Path:
    """A problem file with n sums."""
    lines = [f'{{"id": "p{i}", "question": "{i} + {i}", "answer_value": "{2 * i}"}}' for i in range(n)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_experiment(path: Path, document: dict[str, Any]) -> Experiment:
    """Write an experiment file and load it."""
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return load_experiment(path)
