"""How much memory the completions of a chunk take, and how many of them are therefore decoded at once.

Plain arithmetic on what a checkpoint's config.json and the headers of its weights say, so that a plan is there before a
model is loaded. A plan follows from the chunk, the experiment file and the size of the device, never from what is free
at the moment: batches decide the last bits of logits, and a chunk made again has to give the same bytes.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backtracking_assets.errors import BacktrackingError, CheckpointError
from backtracking_assets.models.checkpoint import read_config, weight_files

GIB = 2**30

SHARES: Mapping[str, float] = {"cuda": 0.85, "cpu": 0.5}
"""Share of a device's memory that is planned with. The rest of a GPU is for CUDA's context, its libraries and what the
allocator cannot use; that of a machine for everything else on it."""

_ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

_SAMPLING_BYTES = 64
"""Bytes for each logit of a row while its token is drawn: logits in float32, scores and noise in float64, the ranking,
its order and its sums in 64 bits. Measured: docs/performance/memory_and_progress.md."""

CAPTURED_ROWS = 32
CAPTURED_COLUMNS = 128
"""Steps of a GPU are captured for multiples of these: rows in the batch, and columns of the cache in use."""


@dataclass(frozen=True)
class ModelShape:
    """What of a model decides the memory it takes."""

    n_layers: int
    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_kv_heads: int
    head_size: int
    vocabulary: int
    element_bytes: int
    n_parameters: int
    max_positions: int | None
    """Positions that the model knows; None where its configuration does not say."""

    @property
    def weights_bytes(self) -> int:
        return self.n_parameters * self.element_bytes

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.n_layers * self.n_kv_heads * self.head_size * self.element_bytes

    @property
    def position_bytes(self) -> int:
        """What one position holds at most while it passes through one layer: norms, projections and the MLP's width."""
        attention = 6 * self.n_heads * self.head_size
        return self.element_bytes * (6 * self.hidden_size + 4 * self.intermediate_size + attention)


def checkpoint_shape(folder: Path, dtype: str) -> ModelShape:
    """The shape of the model in a checkpoint folder; its weights may be missing.

    Raises:
        CheckpointError: config.json or the header of a weight file cannot be read.
    """
    config = read_config(folder)
    files = weight_files(folder)
    counted = parameters_in(files, tied=bool(config.get("tie_word_embeddings"))) if files else None
    try:
        return model_shape(config.get("text_config", config), dtype, counted)
    except KeyError:
        # What a file leaves out, its model class knows.
        from transformers import AutoConfig

        filled = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).get_text_config()
        return model_shape(filled.to_dict(), dtype, counted)


def model_shape(config: Mapping[str, Any], dtype: str, n_parameters: int | None = None) -> ModelShape:
    """The shape that a decoder's configuration, as in config.json, states.

    Args:
        dtype: of the weights in memory, as the experiment file names it.
        n_parameters: counted in the weights; None counts those of a Qwen2 or a Llama of this shape.

    Raises:
        KeyError: the configuration lacks a key that has no default.
    """
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    shape = ModelShape(
        n_layers=config["num_hidden_layers"],
        hidden_size=hidden,
        intermediate_size=config["intermediate_size"],
        n_heads=heads,
        n_kv_heads=config.get("num_key_value_heads") or heads,
        head_size=config.get("head_dim") or hidden // heads,
        vocabulary=config["vocab_size"],
        element_bytes=_ELEMENT_BYTES[dtype],
        n_parameters=0,
        max_positions=_positions(config),
    )
    return replace(shape, n_parameters=_parameters(shape, config) if n_parameters is None else n_parameters)


def _parameters(shape: ModelShape, config: Mapping[str, Any]) -> int:
    queries, keys = shape.n_heads * shape.head_size, shape.n_kv_heads * shape.head_size
    biases = queries + 2 * keys if config.get("attention_bias", config.get("model_type") == "qwen2") else 0
    attention = shape.hidden_size * (2 * queries + 2 * keys) + biases
    layer = attention + 3 * shape.hidden_size * shape.intermediate_size + 2 * shape.hidden_size
    embeddings = shape.vocabulary * shape.hidden_size * (1 if config.get("tie_word_embeddings") else 2)
    return shape.n_layers * layer + embeddings + shape.hidden_size


def _positions(config: Mapping[str, Any]) -> int | None:
    """Positions that a model knows; those that a scaled rotary embedding adds are counted."""
    stated = config.get("max_position_embeddings")
    if not isinstance(stated, int):
        return None
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    scaling = scaling if isinstance(scaling, Mapping) else {}
    factor, original = scaling.get("factor"), scaling.get("original_max_position_embeddings")
    if isinstance(factor, int | float) and isinstance(original, int):
        return max(stated, int(factor * original))
    return stated


def parameters_in(files: list[Path], *, tied: bool) -> int:
    """Parameters in safetensors files, by their headers alone; an unembedding that is tied to the embedding not twice.

    Raises:
        CheckpointError: a file is truncated or damaged.
    """
    from math import prod

    from safetensors import SafetensorError, safe_open

    count = 0
    for path in files:
        try:
            with safe_open(path, framework="numpy") as file:
                names = [name for name in file.keys() if not (tied and name == "lm_head.weight")]  # noqa: SIM118
                count += sum(prod(file.get_slice(name).get_shape()) for name in names)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: the file is truncated or damaged ({error}); fetch it again.") from error
    return count


@dataclass(frozen=True)
class Budget:
    """How much of a device's memory is planned with."""

    device: str
    n_bytes: int
    """What is planned with."""
    total: int
    """All that the device has."""
    stated: bool = False
    """Whether the experiment file states it (`generation.memory_gib`), or it is the device's share."""


def budget_of(device: str, total: int, memory_gib: float | None) -> Budget:
    """What is planned with on a device of `total` bytes.

    Raises:
        BacktrackingError: the experiment file states more than the device has.
    """
    if memory_gib is None:
        return Budget(device, int(total * SHARES[device.partition(":")[0]]), total)
    if memory_gib * GIB > total:
        raise BacktrackingError(
            f"generation.memory_gib is {memory_gib:g} and {device} has {total / GIB:.1f} GiB; nothing was generated: "
            "lower it, or leave it out to plan with a share of what the device has."
        )
    return Budget(device, int(memory_gib * GIB), total, stated=True)


@dataclass(frozen=True)
class MemoryPlan:
    """The batches that a chunk is decoded in, and what one of them takes. All rows are taken to reach the cap."""

    shape: ModelShape
    budget: Budget
    n_completions: int
    n_prompts: int
    longest_prompt: int
    max_new_tokens: int
    rows_that_fit: int
    """Completions that would fit at once, at most those of the chunk; 0 where not even one does."""

    @property
    def capacity(self) -> int:
        """Positions for which a row has keys and values."""
        return self.longest_prompt + self.max_new_tokens

    @property
    def n_batches(self) -> int:
        return -(-self.n_completions // self.rows_that_fit)

    @property
    def rows(self) -> int:
        """Completions that are decoded together: the chunk in as few batches as fit, all of about the same size."""
        return -(-self.n_completions // self.n_batches)

    @property
    def keys_and_values(self) -> int:
        """Bytes of the keys and values of a batch."""
        return self.rows * self.capacity * self.shape.token_bytes

    @property
    def at_work(self) -> int:
        """Bytes that a forward pass and the drawing of tokens take beside weights, keys and values."""
        return self.n_bytes(self.rows) - self.shape.weights_bytes - self.keys_and_values

    def fitting(self, n_bytes: int) -> int:
        """How many of the chunk's completions fit into so many bytes at once; 0 where not even one does."""
        return bisect_right(range(1, self.n_completions + 1), n_bytes, key=self.n_bytes)

    def n_bytes(self, rows: int) -> int:
        """All that a batch of so many completions takes."""
        shape = self.shape
        cache = rows * self.capacity * shape.token_bytes
        # Rows are dropped layer by layer, keys and values apart: one copy of one of them stands beside all.
        cache += cache // (2 * shape.n_layers)
        prompts = min(rows, self.n_prompts)
        mask = prompts * self.longest_prompt**2 * (3 + shape.element_bytes)
        prefill = prompts * self.longest_prompt * shape.position_bytes + mask
        # The scores of one position against all earlier ones, and its mask; an intervention moves a copy of an output
        # or of the logits. It is counted whether there is one or not, so that all conditions have the same batches.
        attention = self.capacity * (2 * 4 * shape.n_heads + 1 + shape.element_bytes)
        logits = shape.vocabulary * (2 * shape.element_bytes + _SAMPLING_BYTES)
        means = 2 * shape.n_layers * shape.hidden_size * shape.element_bytes
        if self.budget.device.startswith("cuda"):
            # Each captured step keeps its logits: one for each so many columns, and for each change of the rows.
            n_captured = self.capacity // CAPTURED_COLUMNS + rows // CAPTURED_ROWS + 1
            logits += shape.vocabulary * shape.element_bytes * n_captured
        step = rows * (shape.position_bytes + attention + logits)
        return shape.weights_bytes + cache + max(prefill, step) + means

    def __str__(self) -> str:
        batches = f"{self.n_batches} batch{'es' if self.n_batches > 1 else ''} of {self.rows}"
        return (
            f"{self.n_completions} completions a chunk in {batches}: {size(self.shape.weights_bytes)} weights + "
            f"{size(self.keys_and_values)} keys and values + {size(self.at_work)} at work, of "
            f"{size(self.budget.n_bytes)} that are planned with on {self.budget.device}"
        )


def plan_chunk(
    shape: ModelShape, budget: Budget, *, n_completions: int, n_prompts: int, longest_prompt: int, max_new_tokens: int
) -> MemoryPlan:
    """The batches of a chunk of `n_completions` with `n_prompts` different prompts.

    Raises:
        BacktrackingError: not even one completion fits, or its tokens are more than the positions that the model knows.
    """
    plan = MemoryPlan(shape, budget, n_completions, n_prompts, longest_prompt, max_new_tokens, 0)
    known = shape.max_positions
    if known is not None and plan.capacity > known:
        raise BacktrackingError(
            f"A prompt of {longest_prompt:,} tokens and sampling.max_new_tokens, {max_new_tokens:,}, make "
            f"{plan.capacity:,} positions, and the model knows {known:,} (max_position_embeddings); nothing was "
            f"generated: lower sampling.max_new_tokens to at most {max(known - longest_prompt, 0):,}."
        )
    fitting = plan.fitting(budget.n_bytes)
    if fitting == 0:
        remedy = "raise generation.memory_gib" if budget.stated else "use a larger device"
        raise BacktrackingError(
            f"Not even one completion fits into the memory that is planned with on {budget.device}: "
            f"{size(shape.weights_bytes)} weights + {size(plan.n_bytes(1) - shape.weights_bytes)} for "
            f"{plan.capacity:,} tokens, of {size(budget.n_bytes)}; nothing was generated: lower "
            f"sampling.max_new_tokens, or {remedy}."
        )
    return replace(plan, rows_that_fit=fitting)


def size(n_bytes: int) -> str:
    """A number of bytes for people: `1.3 GiB`, or in MiB below one GiB."""
    return f"{n_bytes / GIB:.1f} GiB" if n_bytes >= GIB else f"{n_bytes / 2**20:.1f} MiB"
