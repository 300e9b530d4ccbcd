"""What steps of a vocabulary-space model are made of: blocks, gains, and the parts they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crystalline.layers.decay_attention import decay_attention, log_sigmoid, total_weight
from crystalline.layers.parts import Parts

State = Float[Tensor, "batch pos vocab"]
STD = 0.02
"""Of initial weights, where a variant says nothing else."""
GAIN = 0.1
"""What a block's output is scaled by at the start."""
ACTIVATIONS = {
    "gelu": F.gelu,
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "silu": F.silu,
}


def rms(x: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes width"]:
    """X over its root mean square along the last axis, in fp32, then in the dtype of `x`."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def normal(*shape: int, std: float = STD) -> nn.Parameter:
    """A parameter drawn from N(0, std^2)."""
    return nn.Parameter(torch.randn(shape) * std)


def linear(width: int, to: int, *, bias: bool = False, std: float = STD) -> nn.Linear:
    """A map with weights from N(0, std^2) and, if there is one, a bias of zeros."""
    built = nn.Linear(width, to, bias=bias)
    nn.init.normal_(built.weight, std=std)
    if bias:
        nn.init.zeros_(built.bias)
    return built


class Block(nn.Module, ABC):
    """Answers a normed state with an update of the state."""

    @abstractmethod
    def forward(self, x: State, cache: Any = None) -> State:
        """The update, before the gain of its place; position t depends on 0..t alone.

        Args:
            x: Normed states.
            cache: What `init_cache` gave; it is advanced in place.
        """

    def init_cache(self, batch: int) -> Any:
        """What generation carries over; None where positions do not meet."""
        return None


class Residual(nn.Module):
    """x + gain * block(rms x).

    Args:
        block: What is added.
        width: Of the gain: 1 for a scalar, or V for a gain a word. It starts at 1.
    """

    def __init__(self, block: Block, width: int = 1) -> None:
        super().__init__()
        self.block = block
        self.gain = nn.Parameter(torch.ones(() if width == 1 else width))

    def forward(self, x: State, cache: Any = None) -> State:
        update = self.gain * self.block(rms(x.float()), cache)
        return x + update.to(x.dtype)

    def init_cache(self, batch: int) -> Any:
        return self.block.init_cache(batch)


class Step(nn.Module):
    """Parts that change the state one after the other: often one across positions, one within."""

    def __init__(self, *parts: Residual) -> None:
        super().__init__()
        self.parts: Parts[Residual] = Parts(parts)

    def forward(self, x: State, cache: Sequence[Any] | None = None) -> State:
        for index, part in enumerate(self.parts):
            x = part(x, None if cache is None else cache[index])
        return x

    def init_cache(self, batch: int) -> list[Any]:
        return [part.init_cache(batch) for part in self.parts]


class Fading:
    """What `DecayMemory` carries over: its memory, and how many positions it has seen."""

    def __init__(self, memory: Tensor) -> None:
        self.memory = memory
        self.position = 0


class DecayMemory(Block):
    """Linear attention to the strict past through maps of the state; see `layers.decay_attention`.

    Args:
        queries: Map from (..., V) to (..., d_key).
        keys: Map from (..., V) to (..., d_key).
        values: Map from (..., V) to (..., d_value).
        output: Map from (..., d_value) to (..., V).
        d_key: Width of queries and keys.
        d_value: Width of values.
        scale: Switch `score_scale`.
        factor: What scores are multiplied with as published (`scale="none"`).
        decay_logit: At the start; the decay is its sigmoid.
    """

    def __init__(
        self,
        queries: nn.Module,
        keys: nn.Module,
        values: nn.Module,
        output: nn.Module,
        *,
        d_key: int,
        d_value: int,
        scale: str,
        factor: float = 1.0,
        decay_logit: float = 3.0,
    ) -> None:
        super().__init__()
        self.queries, self.keys, self.values, self.output = queries, keys, values, output
        self.d_key, self.d_value, self.scale = d_key, d_value, scale
        self.factor = factor if scale == "none" else 1.0 if scale == "cosine" else 1 / d_key
        self.decay_logit = nn.Parameter(torch.tensor(decay_logit))
        self.gain = nn.Parameter(torch.tensor(GAIN))

    def forward(self, x: State, cache: Fading | None = None) -> State:
        return self.gain * self.output(self.recall(x, cache))

    def recall(self, x: State, cache: Fading | None = None) -> Float[Tensor, "batch pos d_value"]:
        """What is read from the past, before the output map."""
        q, k, u = self.queries(x), self.keys(x), self.values(x)
        if self.scale == "cosine":
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        log_decay = log_sigmoid(self.decay_logit)
        q = q * self.factor
        read, memory = decay_attention(
            q, k.to(q.dtype), u.to(q.dtype), log_decay, None if cache is None else cache.memory
        )
        start = 0 if cache is None else cache.position
        if cache is not None and memory is not None:
            cache.memory, cache.position = memory, start + x.shape[1]
        if self.scale == "normalized":
            read = read / total_weight(start, x.shape[1], log_decay)[:, None].to(read.dtype)
        return read

    def init_cache(self, batch: int) -> Fading:
        return Fading(self.gain.new_zeros(batch, self.d_key, self.d_value))


class Bottleneck(Block):
    """gain * up(act(down(x) + b)): an MLP of one narrow hidden layer.

    Args:
        vocab_size: V.
        hidden: Width m of the hidden layer.
        activation: One of `ACTIVATIONS`.
    """

    def __init__(self, vocab_size: int, hidden: int, activation: str = "gelu") -> None:
        super().__init__()
        self.down = linear(vocab_size, hidden, bias=True)
        self.up = linear(hidden, vocab_size)
        self.activation = activation_named(activation)
        self.gain = nn.Parameter(torch.tensor(GAIN))

    def forward(self, x: State, cache: Any = None) -> State:
        return self.gain * self.up(self.activation(self.down(x)))


def activation_named(name: str) -> Any:
    """The function.

    Raises:
        ValueError: If there is none of this name.
    """
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"model.activation must be one of {known}, got {name!r}")
    return ACTIVATIONS[name]
