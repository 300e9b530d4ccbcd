"""v6: three bands of the Fourier basis; slow ones hold the gates of fast ones (spec 3.6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from crystalline.layers.parts import Parts
from crystalline.models.vocab_space.blocks import Added, Block, DecayMemory, State, Step, linear
from crystalline.models.vocab_space.fourier import (
    Basis,
    FourierOp,
    Reader,
    Writer,
    fourier_basis,
)
from crystalline.models.vocab_space.model import VocabSpace
from crystalline.models.vocab_space.readable import WordMap, prefixed
from crystalline.models.vocab_space.switches import resolve

SLOW, FAST = 4.0, 2.0
"""Decay logits of the two memories at the start."""


class TwoMemories(Block):
    """a_s O_s(r_s) + a_f O_f(sigmoid(r_s W + b) r_f): what is kept long gates what is not.

    Args:
        low: Basis of the slow memory.
        high: Basis of the fast memory.
        channels: C.
        read: Switch `fourier_read`, of queries, keys and values.
        scale: Switch `score_scale`.
    """

    def __init__(self, low: Basis, high: Basis, channels: int, read: str, scale: str) -> None:
        super().__init__()

        def memory(basis: Basis, decay_logit: float) -> DecayMemory:
            q, k, u = (Reader(basis, channels, read) for _ in range(3))
            return DecayMemory(
                q, k, u, Writer(basis, channels),
                d_key=channels, d_value=channels, scale=scale, decay_logit=decay_logit,
            )  # fmt: skip

        self.slow, self.fast = memory(low, SLOW), memory(high, FAST)
        self.gate = linear(channels, channels, bias=True)
        self.gains = nn.Parameter(torch.ones(2))

    def forward(self, x: State, cache: Any = None) -> State:
        slow, fast = self.slow, self.fast
        long = slow.recall(x, None if cache is None else cache[0])
        short = fast.recall(x, None if cache is None else cache[1])
        short = torch.sigmoid(self.gate(long)) * short
        update = self.gains[0] * slow.gain * slow.output(long)
        return update + self.gains[1] * fast.gain * fast.output(short)

    def init_cache(self, batch: int) -> Any:
        return [self.slow.init_cache(batch), self.fast.init_cache(batch)]

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        """Those of the memories, with the gate open."""
        slow, fast = (memory.word_maps(vocab_size) for memory in (self.slow, self.fast))
        return prefixed("slow", slow) | prefixed("fast", fast)


class ThreeBands(Block):
    """Sum over bands of gain_b Op_b(x), the hidden channels of the highest gated by the lowest's.

    Args:
        bases: Of the bands, low to high.
        channels: C.
        read: Switch `fourier_read`.
        activation: gelu, relu, relu2 or silu.
    """

    def __init__(self, bases: Sequence[Basis], channels: int, read: str, activation: str) -> None:
        super().__init__()
        ops = [FourierOp(basis, channels, read, activation) for basis in bases]
        self.ops: Parts[FourierOp] = Parts(ops)
        self.gate = linear(channels, channels, bias=True)
        self.gains = nn.Parameter(torch.ones(len(ops)))

    def forward(self, x: State, cache: Any = None) -> State:
        low, middle, high = (op.hidden(x) for op in self.ops)
        high = torch.sigmoid(self.gate(low)) * high
        written = [op.write(h) for op, h in zip(self.ops, (low, middle, high), strict=True)]
        return self.gains[0] * written[0] + self.gains[1] * written[1] + self.gains[2] * written[2]


class Wave(VocabSpace):
    """x + TwoMemories, then x + ThreeBands, N times.

    Args:
        vocab_size: V.
        context_length: Longest sequence in tokens.
        num_steps: N.
        channels: C.
        bands: Harmonics of the low, the middle and the high band: 1, 2, ... from the lowest on.
        activation: gelu, relu, relu2 or silu.
        mode: "faithful" or "repaired".
        score_scale: Switch; see `switches.SWITCHES`, as for the next one. None: as the mode says.
        fourier_read: Switch.
        basis: Switch.
        basis_norm: Switch.
        options: Of `VocabSpace`.

    Raises:
        ValueError: If there are not three bands of at least one harmonic.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        num_steps: int = 8,
        channels: int = 128,
        bands: Sequence[int] = (4, 4, 8),
        activation: str = "gelu",
        mode: str = "repaired",
        score_scale: str | None = None,
        fourier_read: str | None = None,
        basis: str | None = None,
        basis_norm: str | None = None,
        **options: Any,
    ) -> None:
        if len(bands) != 3 or min(bands) < 1:
            raise ValueError(f"model.bands must be three numbers above 0, got {list(bands)}")
        switches = resolve(
            mode,
            score_scale=score_scale,
            fourier_read=fourier_read,
            basis=basis,
            basis_norm=basis_norm,
        )
        scale, read = switches.score_scale, switches.fourier_read
        columns = fourier_basis(vocab_size, sum(bands)).split([2 * band for band in bands], 1)
        bases = [Basis(band.contiguous(), switches.basis, switches.basis_norm) for band in columns]

        def step() -> Step:
            across = TwoMemories(bases[0], bases[2], channels, read, scale)
            return Step(Added(across), Added(ThreeBands(bases, channels, read, activation)))

        steps = [step() for _ in range(num_steps)]
        super().__init__(vocab_size, context_length, steps, mode=mode, **options)
        self.bases: Parts[Basis] = Parts(bases)
