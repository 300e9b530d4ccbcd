"""Slices of the vocabulary that steps read and write, and the block between (spec 2.5, 2.6)."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.models.vocab_space.blocks import (
    GAIN,
    DecayMemory,
    Fading,
    State,
    activation_named,
    linear,
    rms,
)
from crystalline.models.vocab_space.readable import Readable, WordMap

Part = Float[Tensor, "batch pos width"]


class Slice(nn.Module):
    """Some words of the vocabulary, each once.

    Args:
        index: Their ids, int64; not saved.
    """

    index: Int[Tensor, " width"]

    def __init__(self, index: Int[Tensor, " width"]) -> None:
        super().__init__()
        self.register_buffer("index", index, persistent=False)

    def read(self, x: State) -> Part:
        """The coordinates of these words."""
        return x.index_select(-1, self.index)

    def add(self, x: State, update: Part) -> State:
        """`x` with an update of these words, in the dtype of `x`."""
        return x.index_add(-1, self.index, update.to(x.dtype))


def slice_pairs(
    vocab_size: int, num_steps: int, width: int, addressing: str, seed: int = 0
) -> list[tuple[Slice, Slice]]:
    """What each of the steps reads and what it writes.

    Args:
        vocab_size: V.
        num_steps: N.
        width: k, words of a slice.
        addressing: "contiguous": step i reads the k ids from i floor(V / N) on and writes those
            half a vocabulary further, wrapped around. "permuted": ids in a random order are cut
            into slices, and when they are used up drawn anew, so that ceil(V / k) steps read every
            word and write every word; in orders of their own, so that what one step writes is
            partly read by any other.
        seed: Of the permutations.

    Raises:
        ValueError: If no k words exist.
    """
    if not 1 <= width <= vocab_size:
        raise ValueError(f"model.slice_width must lie in [1, {vocab_size}], got {width}")
    if addressing == "contiguous":
        starts = [step * (vocab_size // num_steps) for step in range(num_steps)]
        read = [_window(vocab_size, width, start) for start in starts]
        write = [_window(vocab_size, width, start + vocab_size // 2) for start in starts]
    else:
        generator = torch.Generator().manual_seed(seed)
        read = _dealt(vocab_size, num_steps, width, generator)
        write = _dealt(vocab_size, num_steps, width, generator)
    return [(Slice(a), Slice(b)) for a, b in zip(read, write, strict=True)]


def _window(vocab_size: int, width: int, start: int) -> Int[Tensor, " width"]:
    return (start + torch.arange(width, device="cpu")) % vocab_size


def _dealt(
    vocab_size: int, num_steps: int, width: int, generator: torch.Generator
) -> list[Int[Tensor, " width"]]:
    """Slices of random orders of all words, a new order when one is used up."""
    per_order = math.ceil(vocab_size / width)
    dealt = []
    order = torch.empty(0)
    for step in range(num_steps):
        if step % per_order == 0:
            order = torch.randperm(vocab_size, generator=generator, device="cpu")
        place = _window(vocab_size, width, step % per_order * width)
        dealt.append(order[place].sort().values)
    return dealt


class SliceMLP(Readable):
    """act(g W + b) W': no gain and no bias of the output.

    Args:
        width: k.
        inner_multiple: Width of the hidden layer, in k.
        activation: gelu, relu, relu2 or silu.
    """

    def __init__(self, width: int, inner_multiple: int, activation: str) -> None:
        super().__init__()
        self.up = linear(width, inner_multiple * width, bias=True, std=0.1)
        self.down = linear(inner_multiple * width, width, std=0.1)
        self.activation = activation_named(activation)

    def forward(self, g: Part) -> Part:
        return self.down(self.activation(self.up(g)))

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        return {"write": WordMap(self.up.weight.T, self.down.weight.T)}


class SliceBlock(Readable):
    """A step that reads one slice of the state and writes another.

        g = x[read];  g = g + a memory(rms g);  x[write] = x[write] + eta / sqrt(k) mlp(rms g)

    Args:
        reads: Of k words.
        writes: Of k words.
        mlp: Map from (..., k) to (..., k).
        scale: Switch `score_scale`; "none" is 1 / sqrt(k) here.
    """

    def __init__(self, reads: Slice, writes: Slice, mlp: Readable, scale: str) -> None:
        super().__init__()
        self.reads, self.writes, self.mlp = reads, writes, mlp
        width = len(reads.index)
        self.unit = 1 / math.sqrt(width)
        self.memory = DecayMemory(
            linear(width, width), linear(width, width), linear(width, width), linear(width, width),
            d_key=width, d_value=width, scale=scale, factor=self.unit,
        )  # fmt: skip
        self.memory_gain = nn.Parameter(torch.ones(()))
        self.gain = nn.Parameter(torch.tensor(GAIN))

    def update(self, x: State, cache: Fading | None = None) -> Part:
        """What is added to the words written."""
        g = self.reads.read(x)
        g = g + (self.memory_gain * self.memory(rms(g.float()), cache)).to(g.dtype)
        return self.gain * self.unit * self.mlp(rms(g.float()))

    def forward(self, x: State, cache: Any = None) -> State:
        return self.writes.add(x, self.update(x, cache))

    def init_cache(self, batch: int) -> Fading:
        return self.memory.init_cache(batch)

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        """Those of the MLP, from the words read to the words written."""
        read, written = self.reads.index, self.writes.index
        maps = self.mlp.word_maps(len(read)).items()
        return {
            name: map.spread(read, written, vocab_size).scaled(self.gain * self.unit)
            for name, map in maps
        }
