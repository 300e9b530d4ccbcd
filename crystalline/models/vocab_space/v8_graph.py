"""v8: words remember words, and push each other through a low-rank graph (spec 3.8)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from crystalline.models.vocab_space.blocks import (
    GAIN,
    Block,
    DecayMemory,
    Residual,
    State,
    Step,
    activation_named,
    normal,
)
from crystalline.models.vocab_space.model import VocabSpace
from crystalline.models.vocab_space.readable import WordMap
from crystalline.models.vocab_space.switches import resolve


class Diagonal(nn.Module):
    """theta * x, a factor a word; 1 at the start."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(vocab_size))

    def forward(self, x: State) -> State:
        return self.weight * x


class WordGraph(Block):
    """gain * act(x G + b), G = U W^T + diag(d): entry (i, j) is how much word i pushes word j.

    Args:
        vocab_size: V.
        rank: Width r of U and W.
        activation: gelu, relu, relu2 or silu.
    """

    def __init__(self, vocab_size: int, rank: int, activation: str = "gelu") -> None:
        super().__init__()
        self.sources = normal(vocab_size, rank)
        self.targets = normal(vocab_size, rank)
        self.diagonal = nn.Parameter(torch.zeros(vocab_size))
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.gain = nn.Parameter(torch.tensor(GAIN))
        self.activation = activation_named(activation)

    def forward(self, x: State, cache: Any = None) -> State:
        pushed = (x @ self.sources) @ self.targets.T
        return self.gain * self.activation(pushed + self.diagonal * x + self.bias)

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        graph = WordMap(self.sources, self.targets.T, diagonal=self.diagonal)
        return {"write": graph.scaled(self.gain)}


class Graph(VocabSpace):
    """x + what words alike have brought, then x + what its words push, N times.

    Queries, keys and values are the state itself, a factor a word apart: of one-hot states, those
    of the same word alone meet, so a first step finds repetitions and what lies between words
    enters from the second on.

    Args:
        vocab_size: V.
        context_length: Longest sequence in tokens.
        num_steps: N.
        rank: Width r of the graph.
        activation: gelu, relu, relu2 or silu.
        mode: "faithful" or "repaired".
        score_scale: Switch; None: as the mode says.
        options: Of `VocabSpace`.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        num_steps: int = 8,
        rank: int = 8,
        activation: str = "gelu",
        mode: str = "repaired",
        score_scale: str | None = None,
        **options: Any,
    ) -> None:
        scale = resolve(mode, score_scale=score_scale).score_scale

        def step() -> Step:
            memory = DecayMemory(
                Diagonal(vocab_size), Diagonal(vocab_size), nn.Identity(), nn.Identity(),
                d_key=vocab_size, d_value=vocab_size, scale=scale,
            )  # fmt: skip
            return Step(Residual(memory), Residual(WordGraph(vocab_size, rank, activation)))

        steps = [step() for _ in range(num_steps)]
        super().__init__(vocab_size, context_length, steps, mode=mode, **options)
