"""v2: each word's own last few scores, and Fourier channels (spec 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from crystalline.layers.convolution import DepthwiseConvolution
from crystalline.models.vocab_space.blocks import STD, Block, Residual, State, Step
from crystalline.models.vocab_space.fourier import Basis, FourierOp, fourier_basis
from crystalline.models.vocab_space.model import VocabSpace
from crystalline.models.vocab_space.readable import WordMap, diagonal_map
from crystalline.models.vocab_space.switches import resolve


@dataclass
class Recent:
    """What `Taps` carries over."""

    states: Float[Tensor, "batch before vocab"]
    """Normed states of the last kernel - 1 positions."""


class Taps(Block):
    """y_t[v] = bias_v + sum_{i < kernel} w_{v,i} x_{t-i}[v]: no word sees another.

    Args:
        vocab_size: V.
        kernel: Positions that a word looks back on, the current one among them.
    """

    def __init__(self, vocab_size: int, kernel: int) -> None:
        super().__init__()
        self.conv = DepthwiseConvolution(vocab_size, kernel, STD)

    def forward(self, x: State, cache: Recent | None = None) -> State:
        return self.filtered(x, cache)

    def multiplied(self, gain: Tensor, x: State, cache: Recent | None = None) -> State:
        return self.filtered(x, cache, gain)

    def filtered(
        self,
        x: State,
        cache: Recent | None,
        scale: Tensor | None = None,
        gates: Float[Tensor, "batch pos kernel"] | None = None,
    ) -> State:
        """The update times a scale of each word, with gates of each position and tap."""
        y, recent = self.conv(x, None if cache is None else cache.states, gates, scale)
        if cache is not None:
            cache.states = recent
        return y

    def init_cache(self, batch: int) -> Recent:
        return Recent(self.conv.init_recent(batch))

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        """What each word makes of itself i positions ago: i + 1 before the next word."""
        taps = self.conv.weight[:, 0].flip(-1).unbind(-1)
        return {f"tap.{i}": diagonal_map(tap, gap=i + 1) for i, tap in enumerate(taps)}


class Conv(VocabSpace):
    """x + a * Taps, then x + b * FourierOp, N times; gains a and b are one a word.

    A reader sees what each word makes of having been said i positions ago: its taps.

    Args:
        vocab_size: V.
        context_length: Longest sequence in tokens.
        num_steps: N; words see N (kernel - 1) positions back.
        kernel: Taps a step, at least 1.
        channels: C.
        harmonics: K.
        activation: gelu, relu, relu2 or silu.
        mode: "faithful" or "repaired".
        fourier_read: Switch; None: as the mode says.
        basis: Switch.
        options: Of `VocabSpace`.

    Raises:
        ValueError: If `kernel` is less than 1.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        num_steps: int = 8,
        kernel: int = 16,
        channels: int = 128,
        harmonics: int = 16,
        activation: str = "gelu",
        mode: str = "repaired",
        fourier_read: str | None = None,
        basis: str | None = None,
        **options: Any,
    ) -> None:
        if kernel < 1:
            raise ValueError(f"model.kernel must be at least 1, got {kernel}")
        switches = resolve(mode, fourier_read=fourier_read, basis=basis)
        phi = Basis(fourier_basis(vocab_size, harmonics), switches.basis)

        def step() -> Step:
            within = FourierOp(phi, channels, switches.fourier_read, activation)
            return Step(
                Residual(Taps(vocab_size, kernel), vocab_size),
                Residual(within, vocab_size, recompute=True),
            )

        steps = [step() for _ in range(num_steps)]
        super().__init__(vocab_size, context_length, steps, mode=mode, **options)
        self.basis = phi
