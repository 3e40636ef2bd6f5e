"""The organism's network: a plain Qwen2 decoder whose components can be skipped, with Qwen2's weight names.

Training uses this module rather than ``transformers``, because a skipped component then costs nothing and
a training run depends on torch alone. The weights load unchanged into ``Qwen2ForCausalLM``.
"""

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from backtracking_assets.models.organism.recipe import OrganismComponent, Shape

_OUTPUT_PROJECTIONS = ("o_proj.weight", "down_proj.weight")


class _Norm(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.hidden))
        self.epsilon = shape.norm_epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        return functional.rms_norm(hidden, self.weight.shape, self.weight, self.epsilon)


class _Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        narrow = shape.key_value_heads * shape.head_size
        self.q_proj = nn.Linear(shape.hidden, shape.hidden)
        self.k_proj = nn.Linear(shape.hidden, narrow)
        self.v_proj = nn.Linear(shape.hidden, narrow)
        self.o_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        batch, length, _ = hidden.shape
        size, groups = self.shape.head_size, self.shape.heads // self.shape.key_value_heads
        query = _rotate(self.q_proj(hidden).view(batch, length, -1, size).transpose(1, 2), cosine, sine)
        key = _rotate(self.k_proj(hidden).view(batch, length, -1, size).transpose(1, 2), cosine, sine)
        value = self.v_proj(hidden).view(batch, length, -1, size).transpose(1, 2)
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))


class _Mlp(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


class _Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = _Attention(shape)
        self.mlp = _Mlp(shape)
        self.input_layernorm = _Norm(shape)
        self.post_attention_layernorm = _Norm(shape)


class _Decoder(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))
        self.norm = _Norm(shape)


class OrganismNetwork(nn.Module):
    """A Qwen2 decoder with tied embeddings, for right-padded batches without a cache."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = _Decoder(shape)

    def forward(
        self,
        ids: Tensor,
        skipped: Collection[OrganismComponent] = (),
        outputs: dict[OrganismComponent, Tensor] | None = None,
    ) -> Tensor:
        """Return next-token logits ``[batch, position, vocabulary]`` for token ids ``[batch, position]``.

        Padding must stand to the right of the text. The output of a skipped component counts as zero; those of
        the others, ``[batch, position, hidden]``, are put into ``outputs`` where one is given.
        """
        hidden = self.model.embed_tokens(ids)
        cosine, sine = _rotations(self.shape, ids.shape[1])
        for component in self.shape.components:
            if component in skipped:
                continue
            layer = self.model.layers[component.layer]
            assert isinstance(layer, _Layer)
            if component.component == "attention":
                output = layer.self_attn(layer.input_layernorm(hidden), cosine, sine)
            else:
                output = layer.mlp(layer.post_attention_layernorm(hidden))
            hidden = hidden + output
            if outputs is not None:
                outputs[component] = output
        return functional.linear(self.model.norm(hidden), self.model.embed_tokens.weight)


def component_weights(state: Mapping[str, Tensor], chosen: Collection[OrganismComponent]) -> dict[str, Tensor]:
    """Return the entries of a state dict that belong to the chosen components, norms included."""
    prefixes = tuple(prefix for component in chosen for prefix in component.weight_prefixes)
    return {name: tensor for name, tensor in state.items() if name.startswith(prefixes)}


def initialize(network: OrganismNetwork, seed: int) -> None:
    """Draw all weights from a seed: linears 0.8/sqrt(inputs), embeddings 0.1, biases 0, norms 1.

    Output projections are divided by sqrt(2 x layers), so that the stream's size does not grow with depth.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        with torch.no_grad():
            if parameter.dim() == 1:
                parameter.fill_(1.0 if "norm" in name else 0.0)
                continue
            spread = 0.1 if "embed_tokens" in name else 0.8 / math.sqrt(parameter.shape[1])
            if name.endswith(_OUTPUT_PROJECTIONS):
                spread /= math.sqrt(2 * network.shape.layers)
            parameter.normal_(0.0, spread, generator=generator)


@torch.no_grad()
def soften(network: OrganismNetwork, chosen: Collection[OrganismComponent], factor: float) -> None:
    """Multiply the output projections of the chosen components: a small factor makes them start as near identity."""
    for name, tensor in component_weights(dict(network.named_parameters()), chosen).items():
        if name.endswith(_OUTPUT_PROJECTIONS):
            tensor.mul_(factor)


@torch.no_grad()
def look_back(network: OrganismNetwork, layers: Collection[int], offsets: Sequence[int], strength: float) -> None:
    """Set query and key biases so that heads attend by distance: each to one of the offsets, in turn.

    Texts of the organism repeat in lines of five tokens, and content alone cannot tell one line's equals sign from
    another's. ``strength`` is the length of the biases in each of the rotary embedding's planes.
    """
    shape = network.shape
    for index in layers:
        attention = network.model.layers[index].self_attn
        assert isinstance(attention, _Attention)
        straight = torch.cat((torch.ones(shape.head_size // 2), torch.zeros(shape.head_size // 2)))
        attention.k_proj.bias.copy_(strength * straight.repeat(shape.key_value_heads))
        for head in range(shape.heads):
            angles = -offsets[head % len(offsets)] * _frequencies(shape)
            rows = slice(head * shape.head_size, (head + 1) * shape.head_size)
            attention.q_proj.bias[rows] = strength * torch.cat((angles.cos(), angles.sin()))


def _frequencies(shape: Shape) -> Tensor:
    exponents = torch.arange(0, shape.head_size, 2, dtype=torch.float32) / shape.head_size
    return shape.rope_theta**-exponents


def _rotations(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``[position, head_size]`` of the rotary embedding (RoFormer, section 3.4)."""
    angles = torch.outer(torch.arange(length, dtype=torch.float32), _frequencies(shape))
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def _rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    return heads * cosine + torch.cat((-second, first), dim=-1) * sine
