"""Maps between words and channels that are smooth in the word's id (spec 2.1, 2.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crystalline.models.vocab_space.blocks import (
    GAIN,
    Block,
    Borrowed,
    DecayMemory,
    State,
    activation_named,
    linear,
    normal,
)
from crystalline.models.vocab_space.readable import WordMap, matrix_of


def fourier_basis(vocab_size: int, harmonics: int) -> Float[Tensor, "vocab columns"]:
    """cos(2 pi h v / V) and sin(2 pi h v / V) of word v in columns 2 (h - 1) and 2 h - 1; fp32.

    Raises:
        ValueError: If there are no columns, or so many that some repeat or vanish.
    """
    if not 1 <= harmonics <= (vocab_size - 1) // 2:
        most = (vocab_size - 1) // 2
        raise ValueError(f"model.harmonics must lie in [1, {most}], got {harmonics}")
    h = torch.arange(1, harmonics + 1, dtype=torch.float64)
    v = torch.arange(vocab_size, dtype=torch.float64)
    angle = 2 * math.pi * v[:, None] * h / vocab_size
    return torch.stack([angle.cos(), angle.sin()], -1).flatten(1).float()


def cosine_basis(vocab_size: int, harmonics: int) -> Float[Tensor, "vocab columns"]:
    """cos(pi h (2 v + 1) / (2 V)) of word v in column h - 1: a DCT-II without its mean; fp32.

    Raises:
        ValueError: If there are no columns, or so many that some repeat or vanish.
    """
    if not 1 <= harmonics < vocab_size:
        raise ValueError(f"model.harmonics must lie in [1, {vocab_size - 1}], got {harmonics}")
    h = torch.arange(1, harmonics + 1, dtype=torch.float64)
    v = torch.arange(vocab_size, dtype=torch.float64)
    return (math.pi * h * (2 * v[:, None] + 1) / (2 * vocab_size)).cos().float()


class Basis(nn.Module):
    """Phi, (V, columns): what words are told apart by. Called without arguments.

    Blocks share one, which the model above them owns.

    Args:
        columns: Smooth ones, with zero mean and equal norms.
        kind: Switch `basis`. "fourier": these columns. "random": orthogonal ones of the same norm,
            drawn alike every time. "learned": Phi = columns + sqrt(V) D with D = 0 at the start; a
            word's own coordinate in a first state is sqrt(V), too.
        norm: Switch `basis_norm`, of the columns: "sqrt_v", some sqrt(V / 2), with which steps of
            a memory in this basis let states grow by orders of magnitude, or "unit".
    """

    columns: Float[Tensor, "vocab columns"]

    def __init__(
        self,
        columns: Float[Tensor, "vocab columns"],
        kind: str = "fourier",
        norm: str = "sqrt_v",
    ) -> None:
        super().__init__()
        size = columns.norm(dim=0)
        if kind == "random":
            drawn = torch.randn(columns.shape, generator=torch.Generator().manual_seed(0))
            columns = torch.linalg.qr(drawn).Q * size
        columns = columns / size if norm == "unit" else columns
        self.register_buffer("columns", columns, persistent=False)
        self.change = nn.Parameter(torch.zeros_like(columns)) if kind == "learned" else None

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.columns.shape[1]

    def forward(self) -> Float[Tensor, "vocab columns"]:
        if self.change is None:
            return self.columns
        return self.columns + math.sqrt(len(self.columns)) * self.change


class Reader(nn.Module):
    """Channels of a state, (..., V) to (..., C), by coefficients R in a basis Phi of the words.

    Args:
        basis: Phi.
        channels: C.
        read: Switch `fourier_read`: "softmax" takes averages over the vocabulary with weights
            softmax(Phi R^T), nearly blind at the start; "linear" the map x Phi R^T.
    """

    def __init__(self, basis: Basis, channels: int, read: str) -> None:
        super().__init__()
        self.basis = Borrowed(basis)
        self.weight = normal(channels, basis.width)
        self.read = read

    def forward(self, x: State) -> Float[Tensor, "batch pos channels"]:
        if self.read == "linear":
            return (x @ self.basis()) @ self.weight.T
        return x @ (self.basis() @ self.weight.T).softmax(0)


class Writer(nn.Module):
    """A state of channels, (..., C) to (..., V): h W Phi^T.

    Args:
        basis: Phi.
        channels: C.
    """

    def __init__(self, basis: Basis, channels: int) -> None:
        super().__init__()
        self.basis = Borrowed(basis)
        self.weight = normal(channels, basis.width)

    def forward(self, h: Float[Tensor, "batch pos channels"]) -> State:
        return (h @ self.weight) @ self.basis().T


class FourierOp(Block):
    """gain * write(act(read(x) M + b)): words to channels and back, within a position.

    Args:
        basis: Phi.
        channels: C.
        read: Switch `fourier_read`.
        activation: gelu, relu, relu2 or silu.
        mix: M, a map from (..., C) to (..., C); None: a dense one.
    """

    def __init__(
        self,
        basis: Basis,
        channels: int,
        read: str,
        activation: str = "gelu",
        mix: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.reader = Reader(basis, channels, read)
        self.writer = Writer(basis, channels)
        self.mix = linear(channels, channels) if mix is None else mix
        self.bias = nn.Parameter(torch.zeros(channels))
        self.gain = nn.Parameter(torch.tensor(GAIN))
        self.activation = activation_named(activation)

    def forward(self, x: State, cache: Any = None) -> State:
        return self.write(self.hidden(x))

    def hidden(self, x: State) -> Float[Tensor, "batch pos channels"]:
        """act(read(x) M + b)."""
        return self.activation(self.mix(self.reader(x)) + self.bias)

    def write(self, h: Float[Tensor, "batch pos channels"]) -> State:
        """The update that hidden channels stand for."""
        return self.gain * self.writer(h)

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        left = matrix_of(lambda x: self.mix(self.reader(x)), vocab_size, self.bias)
        return {"write": WordMap(left, matrix_of(self.write, len(self.bias), self.bias))}


class FourierMemory(DecayMemory):
    """`DecayMemory` through maps in a basis: q, k and u from x Phi, and what is read by a `Writer`.

    Args:
        basis: Phi.
        channels: C, the width of queries, keys and values.
        scale: Switch `score_scale`.
        decay_logit: At the start; several: one a head.
        queries: Map from x Phi, (..., columns), to (..., C); None: one of its own.
        keys: The same.
    """

    def __init__(
        self,
        basis: Basis,
        channels: int,
        scale: str,
        decay_logit: float | Sequence[float] = 3.0,
        queries: nn.Module | None = None,
        keys: nn.Module | None = None,
    ) -> None:
        def new() -> nn.Module:
            return linear(basis.width, channels)

        super().__init__(
            queries or new(), keys or new(), new(), Writer(basis, channels),
            d_key=channels, d_value=channels, scale=scale, decay_logit=decay_logit,
        )  # fmt: skip
        self.basis = Borrowed(basis)

    def project(self, x: State) -> tuple[Tensor, Tensor, Tensor]:
        return super().project(x @ self.basis())
