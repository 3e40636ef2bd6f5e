"""Loading a checked checkpoint into memory: model, tokenizer, stop tokens."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from backtracking_assets.errors import CheckpointError
from backtracking_assets.experiment import Experiment
from backtracking_assets.layer_subsets import LayerSubset
from backtracking_assets.models.checkpoint import Checkpoint, check_fits, check_full_attention
from backtracking_assets.models.interventions import component_module
from backtracking_assets.models.lean_blocks import make_lean
from backtracking_assets.models.memory import out_of_memory_facts
from backtracking_assets.models.slot_cache import ATTENTION
from backtracking_assets.records import Problem

_OPENED = ("<think>\n", "<think>")


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to generate."""

    checkpoint: Checkpoint
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    stop_ids: frozenset[int]
    pad_id: int


def load_model(experiment: Experiment, checkpoint: Checkpoint, device: str) -> LoadedModel:
    """Load the experiment's checkpoint, already inspected, onto a device (`cpu`, `cuda:0`, …) and check that it fits.

    Raises:
        CheckpointError: the checkpoint is damaged, of another depth, too large for the device, without full attention
            in every layer, or its tokenizer fails the round trip.
    """
    check_fits(checkpoint, experiment)
    tokenizer = load_tokenizer(checkpoint.folder, experiment.model.round_trip)
    torch.set_num_threads(experiment.generation.threads)
    transformers.utils.logging.disable_progress_bar()  # its bars run through the sweep's own
    try:
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder,
            dtype=getattr(torch, experiment.model.dtype),
            attn_implementation=ATTENTION,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
        torch.nn.Module.to(model, torch.device(device))
    except torch.OutOfMemoryError as error:
        raise CheckpointError(
            f"{checkpoint.folder}: the model, {checkpoint.n_bytes / 2**30:.1f} GiB on disk, does not fit into the "
            f"memory of {device}{out_of_memory_facts(error)}; end what else runs there, or set model.device to "
            "another device."
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{checkpoint.folder}: the model cannot be loaded: {_first_line(error)}") from error
    model.eval()
    make_lean(model)
    check_full_attention(checkpoint.folder, model.config.get_text_config().to_dict())
    for subset in experiment.all_subsets().values():
        for layer, component in subset.components() if isinstance(subset, LayerSubset) else ():
            component_module(model, layer, component)
    vocabulary = model.config.get_text_config().vocab_size
    if len(tokenizer) > vocabulary:
        raise CheckpointError(
            f"{checkpoint.folder}: the tokenizer has {len(tokenizer)} tokens and the model embeds {vocabulary}; "
            "they do not belong together."
        )
    stop_ids = _stop_ids(model, tokenizer)
    if not stop_ids:
        raise CheckpointError(f"{checkpoint.folder}: no end-of-sequence token is configured.")
    pad = tokenizer.pad_token_id
    return LoadedModel(checkpoint, model, tokenizer, stop_ids, pad if isinstance(pad, int) else min(stop_ids))


def load_tokenizer(folder: Path, round_trip: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint folder.

    `AutoTokenizer` picks a class by `model_type` and then ignores tokenizer.json's own splitting for some folders, so
    the file is always loaded as it stands, and must return a known text unchanged.

    Raises:
        CheckpointError: it cannot be loaded or fails the round trip.
    """
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception for a malformed file
        raise CheckpointError(f"{folder}: the tokenizer cannot be loaded: {_first_line(error)}") from error
    ids = tokenizer.encode(round_trip, add_special_tokens=False)
    returned = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if returned != round_trip:
        raise CheckpointError(
            f"{folder}: the tokenizer does not return model.round_trip unchanged: {round_trip!r} came back as "
            f"{returned!r}; it does not belong to this checkpoint, or the text uses what it cannot encode."
        )
    return tokenizer


@dataclass(frozen=True)
class Prompt:
    """What the model reads before its first new token."""

    text: str
    token_ids: tuple[int, ...]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def make_prompts(
    tokenizer: PreTrainedTokenizerFast, experiment: Experiment, problems: Iterable[Problem]
) -> dict[str, Prompt]:
    """The prompt of each problem under the experiment's variant, by problem id.

    Raises:
        CheckpointError: the experiment wants a chat template and the checkpoint has none.
    """
    if experiment.prompting.chat_template and tokenizer.chat_template is None:
        raise CheckpointError(
            f"{experiment.source} sets prompting.chat_template and the checkpoint's tokenizer has no chat template."
        )
    return {problem.problem_id: _prompt(tokenizer, experiment, problem.question) for problem in problems}


def _prompt(tokenizer: PreTrainedTokenizerFast, experiment: Experiment, question: str) -> Prompt:
    text = experiment.prompting.user_text(question)
    if not experiment.prompting.chat_template:
        return Prompt(text, tuple(tokenizer.encode(text, add_special_tokens=True)))
    messages = [{"role": "user", "content": text}]
    if experiment.prompting.system is not None:
        messages.insert(0, {"role": "system", "content": experiment.prompting.system})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert isinstance(text, str)
    prefix = experiment.prompting.assistant_prefix.get(experiment.prompting.variant)
    if prefix is not None:
        # Templates of reasoning models open the thinking themselves; the variant says how it is opened, if at all.
        text = text.removesuffix("\n").removesuffix("<think>") if text.endswith(_OPENED) else text
        text += prefix
    # The template writes the special tokens itself.
    return Prompt(text, tuple(tokenizer.encode(text, add_special_tokens=False)))


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    generation = getattr(model, "generation_config", None)
    found: set[int] = set()
    for value in (getattr(generation, "eos_token_id", None), model.config.eos_token_id, tokenizer.eos_token_id):
        if isinstance(value, int):
            found.add(value)
        elif isinstance(value, Sequence):
            found.update(value)
    return frozenset(found)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
