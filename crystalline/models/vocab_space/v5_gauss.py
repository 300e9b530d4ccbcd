"""v5: v3 in the spectrum of a state over its vocabulary (spec 3.5).

A Fourier transform over words, never over time. Of a real state x the harmonics 1..F of
`torch.fft.rfft` are Re_h = sum_v x_v cos(2 pi h v / V) and Im_h = -sum_v x_v sin(2 pi h v / V), and
`irfft` makes (2 / V) sum_h (Re_h cos - Im_h sin) of them: products with one basis of 2 F columns,
faster than the transform while F is small. Beside v3 only the 2 / V is new, and that what v3's
operation reads by a softmax is read linearly.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crystalline.models.vocab_space.blocks import (
    GAIN,
    Block,
    Borrowed,
    DecayMemory,
    Residual,
    State,
    Step,
    activation_named,
    linear,
    normal,
)
from crystalline.models.vocab_space.fourier import Basis, fourier_basis
from crystalline.models.vocab_space.model import VocabSpace
from crystalline.models.vocab_space.readable import WordMap, matrix_of
from crystalline.models.vocab_space.switches import resolve

Harmonics = Float[Tensor, "batch pos columns"]
"""Re_1..Re_F and Im_1..Im_F."""


class Spectrum(nn.Module):
    """Harmonics 1..F of a state, and the state that has given ones and no others; in fp32.

    Args:
        basis: Phi: cosines, then negative sines. Blocks share one.
    """

    def __init__(self, basis: Basis) -> None:
        super().__init__()
        self.basis = Borrowed(basis)
        self.width = basis.width

    def analyse(self, x: State) -> Harmonics:
        with torch.autocast(x.device.type, enabled=False):
            return x.float() @ self.basis()

    def synthesise(self, spectrum: Harmonics) -> State:
        with torch.autocast(spectrum.device.type, enabled=False):
            phi = self.basis()
            return (spectrum.float() * (2 / len(phi))) @ phi.T


def spectral_basis(vocab_size: int, harmonics: int) -> Float[Tensor, "vocab columns"]:
    """cos(2 pi h v / V) of word v in column h - 1, -sin of the same F columns further; fp32."""
    cosines, sines = fourier_basis(vocab_size, harmonics).unflatten(1, (-1, 2)).unbind(-1)
    return torch.cat([cosines, -sines], 1)


class Synthesis(nn.Module):
    """A state of channels: those of the spectrum h W.

    Args:
        spectrum: Of the states.
        channels: C.
    """

    def __init__(self, spectrum: Spectrum, channels: int) -> None:
        super().__init__()
        self.spectrum = spectrum
        self.map = linear(channels, spectrum.width)

    def forward(self, h: Float[Tensor, "batch pos channels"]) -> State:
        return self.spectrum.synthesise(self.map(h))


class SpectralMemory(DecayMemory):
    """`DecayMemory` through maps of a spectrum: analysed once, and synthesised from what is read.

    Args:
        spectrum: Of the states.
        channels: C, the width of queries, keys and values.
        scale: Switch `score_scale`.
    """

    def __init__(self, spectrum: Spectrum, channels: int, scale: str) -> None:
        columns = spectrum.width
        queries, keys, values = (linear(columns, channels) for _ in range(3))
        super().__init__(
            queries, keys, values, Synthesis(spectrum, channels),
            d_key=channels, d_value=channels, scale=scale,
        )  # fmt: skip
        self.spectrum = spectrum

    def project(self, x: State) -> tuple[Tensor, Tensor, Tensor]:
        return super().project(self.spectrum.analyse(x))


class SpectralOp(Block):
    """gain * synthesise(act(analyse(x) R^T M + b) W), within a position.

    Args:
        spectrum: Of the states.
        channels: C.
        activation: gelu, relu, relu2 or silu.
    """

    def __init__(self, spectrum: Spectrum, channels: int, activation: str) -> None:
        super().__init__()
        columns = spectrum.width
        self.spectrum = spectrum
        self.read = normal(columns, channels)
        self.mix = normal(channels, channels)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.write = Synthesis(spectrum, channels)
        self.gain = nn.Parameter(torch.tensor(GAIN))
        self.activation = activation_named(activation)

    def forward(self, x: State, cache: Any = None) -> State:
        return self.gain * self.write(self.activation(self.channels(x) + self.bias))

    def channels(self, x: State) -> Float[Tensor, "batch pos channels"]:
        """What is read of the state."""
        return self.spectrum.analyse(x) @ (self.read @ self.mix)

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        read = matrix_of(self.channels, vocab_size, self.mix)
        return {"write": WordMap(read, self.gain * matrix_of(self.write, len(self.mix), self.mix))}


class Gauss(VocabSpace):
    """x + SpectralMemory, then x + SpectralOp, N times.

    Args:
        vocab_size: V.
        context_length: Longest sequence in tokens.
        num_steps: N.
        channels: C, of the memory and of the operation.
        harmonics: F, below V / 2.
        activation: gelu, relu, relu2 or silu.
        mode: "faithful" or "repaired".
        score_scale: Switch; None: as the mode says.
        basis: Switch.
        options: Of `VocabSpace`.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        num_steps: int = 8,
        channels: int = 128,
        harmonics: int = 16,
        activation: str = "gelu",
        mode: str = "repaired",
        score_scale: str | None = None,
        basis: str | None = None,
        **options: Any,
    ) -> None:
        switches = resolve(mode, score_scale=score_scale, basis=basis)
        phi = Basis(spectral_basis(vocab_size, harmonics), switches.basis)
        spectrum = Spectrum(phi)

        def step() -> Step:
            memory = SpectralMemory(spectrum, channels, switches.score_scale)
            return Step(Residual(memory), Residual(SpectralOp(spectrum, channels, activation)))

        steps = [step() for _ in range(num_steps)]
        super().__init__(vocab_size, context_length, steps, mode=mode, **options)
        self.basis = phi
