"""What steps of a vocabulary-space model are made of: blocks, gains, and the parts they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from crystalline.layers.decay_attention import decay_attention, log_sigmoid, total_weight
from crystalline.layers.parts import Parts
from crystalline.layers.recompute import recomputed
from crystalline.models.vocab_space.readable import Readable, WordMap, matrix_of, prefixed

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


class Scheduled(nn.Module, ABC):
    """A part that changes while training goes on; the model passes rounds on to all of them."""

    @abstractmethod
    def begin_round(self, progress: float) -> None:
        """Called before each training round, when a share `progress` of training is done."""


class Block(Readable, ABC):
    """Answers a normed state with an update of the state."""

    @abstractmethod
    def forward(self, x: State, cache: Any = None) -> State:
        """The update, before the gain of its place; position t depends on 0..t alone.

        Args:
            x: Normed states.
            cache: What `init_cache` gave; it is advanced in place.
        """

    def multiplied(self, gain: Tensor, x: State, cache: Any = None) -> State:
        """`gain` times the update; a linear block may put it into its weights.

        Where it does, hooks on the block itself see nothing of the pass.
        """
        return gain * self(x, cache)

    def init_cache(self, batch: int) -> Any:
        """What generation carries over; None where positions do not meet."""
        return None


class Borrowed(nn.Module):
    """A module that many use and that the model above them owns, where it is saved once.

    Args:
        owned: The model registers it, too.
    """

    def __init__(self, owned: Any) -> None:
        super().__init__()
        self.owned = (owned,)  # in a tuple, so that it is not registered here

    def forward(self, *inputs: Any) -> Any:
        return self.owned[0](*inputs)


class Shared(Borrowed, Block):
    """A block that many steps use."""

    def init_cache(self, batch: int) -> Any:
        return self.owned[0].init_cache(batch)

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        owned = self.owned[0]
        return owned.word_maps(vocab_size) if isinstance(owned, Readable) else {}


class Added(Readable):
    """x + block(rms x), of a block that has gains of its own.

    Args:
        block: What is added.
        recompute: Whether the update is formed again in the backward pass; of cheap blocks.
    """

    def __init__(self, block: Block, recompute: bool = False) -> None:
        super().__init__()
        self.block = block
        self.recompute = recompute

    def forward(self, x: State, cache: Any = None) -> State:
        return x + self.update(x, cache).to(x.dtype)

    def update(self, x: State, cache: Any = None) -> State:
        """What is added to the state."""
        if self.recompute and cache is None:
            return recomputed(lambda state: self.of_normed(rms(state.float())), x)
        return self.of_normed(rms(x.float()), cache)

    def of_normed(self, x: State, cache: Any = None) -> State:
        """The update, of a normed state."""
        return self.block(x, cache)

    def init_cache(self, batch: int) -> Any:
        return self.block.init_cache(batch)

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        return self.block.word_maps(vocab_size)


class Residual(Added):
    """x + gain * block(rms x).

    Args:
        block: What is added.
        width: Of the gain: 1 for a scalar, or V for a gain a word. It starts at 1.
        recompute: As of `Added`.
    """

    def __init__(self, block: Block, width: int = 1, recompute: bool = False) -> None:
        super().__init__(block, recompute)
        self.gain = nn.Parameter(torch.ones(() if width == 1 else width))

    def of_normed(self, x: State, cache: Any = None) -> State:
        return self.block.multiplied(self.gain, x, cache)

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        """Those of the block; what they push is pushed with the gain."""
        maps = super().word_maps(vocab_size)
        return {n: map.scaled(self.gain) if map.gap > 0 else map for n, map in maps.items()}


class Step(Readable):
    """Parts that change the state one after the other: often one across positions, one within."""

    def __init__(self, *parts: Added) -> None:
        super().__init__()
        self.parts: Parts[Added] = Parts(parts)

    def forward(self, x: State, cache: Sequence[Any] | None = None) -> State:
        for index, part in enumerate(self.parts):
            x = part(x, None if cache is None else cache[index])
        return x

    def init_cache(self, batch: int) -> list[Any]:
        return [part.init_cache(batch) for part in self.parts]

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        found: dict[str, WordMap] = {}
        for index, part in enumerate(self.parts):
            found |= prefixed(f"parts.{index}", part.word_maps(vocab_size))
        return found


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
        d_key: Width of queries and keys, of all heads together.
        d_value: Width of values, of all heads together.
        scale: Switch `score_scale`; "cosine" is of the whole vectors, before heads split them.
        factor: What scores are multiplied with as published (`scale="none"`).
        decay_logit: At the start; the decay is its sigmoid. Several: one for each of as many heads,
            which split queries, keys and values evenly.
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
        decay_logit: float | Sequence[float] = 3.0,
    ) -> None:
        super().__init__()
        self.queries, self.keys, self.values, self.output = queries, keys, values, output
        self.decay_logit = nn.Parameter(torch.tensor(decay_logit))
        self.num_heads = self.decay_logit.numel()
        self.d_key, self.d_value = d_key // self.num_heads, d_value // self.num_heads
        self.scale = scale
        self.factor = factor if scale == "none" else 1.0 if scale == "cosine" else 1 / self.d_key
        self.gain = nn.Parameter(torch.tensor(GAIN))

    def forward(self, x: State, cache: Any = None, shift: Tensor | float = 0.0) -> State:
        """The update; `shift` is added to the logit of the decay."""
        return self.gain * self.output(self.recall(x, cache, shift))

    def recall(
        self, x: State, cache: Fading | None = None, shift: Tensor | float = 0.0
    ) -> Float[Tensor, "batch pos d_value"]:
        """What is read from the past, before the output map."""
        q, k, u = (self.split(z) for z in self.scaled(x))
        log_decay = log_sigmoid(self.decay_logit + shift).reshape(self.num_heads)
        read, memory = decay_attention(q, k, u, log_decay, None if cache is None else cache.memory)
        start = 0 if cache is None else cache.position
        if cache is not None and memory is not None:
            cache.memory, cache.position = memory, start + x.shape[1]
        if self.scale == "normalized":
            read = read / total_weight(start, x.shape[1], log_decay)[..., None].to(read.dtype)
        return rearrange(read, "batch head pos d -> batch pos (head d)")

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values."""
        return self.queries(x), self.keys(x), self.values(x)

    def scaled(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of one dtype, of which <q, k> is a score."""
        q, k, u = self.project(x)
        if self.scale == "cosine":
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        return q * self.factor, k.to(q.dtype), u.to(q.dtype)

    def split(self, z: Float[Tensor, "batch pos d"]) -> Float[Tensor, "batch head pos d_head"]:
        return rearrange(z, "batch pos (head d) -> batch head pos d", head=self.num_heads)

    def init_cache(self, batch: int) -> Fading:
        return Fading(self.gain.new_zeros(batch, self.num_heads, self.d_key, self.d_value))

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        """Which earlier words a word looks for, and what a word remembered pushes; by head.

        The strict past ends one position before; what stands there pushes words two further on.
        """
        q, k, u = (
            matrix_of(lambda x, at=at: self.project(x)[at], vocab_size, self.gain)
            for at in range(3)
        )
        found: dict[str, WordMap] = {}
        for head, output in enumerate(self.outputs()):
            key = slice(head * self.d_key, (head + 1) * self.d_key)
            value = slice(head * self.d_value, (head + 1) * self.d_value)
            name = f"head.{head}." if self.num_heads > 1 else ""
            found[f"{name}look"] = WordMap(self.factor * q[:, key], k[:, key].T, gap=-1)
            found[f"{name}write"] = WordMap(u[:, value], output, gap=2)
        return found

    def outputs(self) -> Float[Tensor, "head d_value vocab"]:
        """What the values of each head push, the gain included."""
        output = matrix_of(self.output, self.num_heads * self.d_value, self.gain)
        return rearrange(self.gain * output, "(head d) vocab -> head d vocab", d=self.d_value)

    def horizons(self) -> dict[str, Float[Tensor, " heads"]]:
        return {"memory": 1 + self.decay_logit.detach().float().exp().reshape(-1)}


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

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        return {"write": WordMap(self.down.weight.T, self.gain * self.up.weight.T)}


def activation_named(name: str) -> Any:
    """The function.

    Raises:
        ValueError: If there is none of this name.
    """
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"model.activation must be one of {known}, got {name!r}")
    return ACTIVATIONS[name]
