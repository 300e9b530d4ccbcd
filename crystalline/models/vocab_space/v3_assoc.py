"""v3: linear attention and channels, both through Fourier maps of low rank (spec 3.3)."""

from __future__ import annotations

from typing import Any

from crystalline.models.vocab_space.blocks import Residual, Step
from crystalline.models.vocab_space.fourier import (
    Basis,
    FourierMemory,
    FourierOp,
    fourier_basis,
)
from crystalline.models.vocab_space.model import VocabSpace
from crystalline.models.vocab_space.switches import resolve


class Assoc(VocabSpace):
    """x + FourierMemory, then x + FourierOp, N times; no map between words has a rank above 2 K.

    Args:
        vocab_size: V.
        context_length: Longest sequence in tokens.
        num_steps: N.
        channels: C, of the memory and of the operation.
        harmonics: K.
        activation: gelu, relu, relu2 or silu.
        mode: "faithful" or "repaired".
        score_scale: Switch; None: as the mode says. As published ("none") states grow by orders
            of magnitude a step.
        fourier_read: Switch, of the operation; the memory's reads are always linear.
        basis: Switch.
        basis_norm: Switch.
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
        fourier_read: str | None = None,
        basis: str | None = None,
        basis_norm: str | None = None,
        **options: Any,
    ) -> None:
        switches = resolve(
            mode,
            score_scale=score_scale,
            fourier_read=fourier_read,
            basis=basis,
            basis_norm=basis_norm,
        )
        phi = Basis(fourier_basis(vocab_size, harmonics), switches.basis, switches.basis_norm)

        def step() -> Step:
            memory = FourierMemory(phi, channels, switches.score_scale)
            within = FourierOp(phi, channels, switches.fourier_read, activation)
            return Step(Residual(memory), Residual(within))

        steps = [step() for _ in range(num_steps)]
        super().__init__(vocab_size, context_length, steps, mode=mode, **options)
        self.basis = phi
