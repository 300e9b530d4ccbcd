"""v9: dense maps of rank d into linear attention, then a narrow MLP (spec 3.9)."""

from __future__ import annotations

from typing import Any

from crystalline.models.vocab_space.blocks import (
    Bottleneck,
    DecayMemory,
    Residual,
    Step,
    linear,
)
from crystalline.models.vocab_space.model import VocabSpace
from crystalline.models.vocab_space.switches import resolve


class Meta(VocabSpace):
    """x + DecayMemory, then x + MLP, N times; every map between words is a product of two.

    Args:
        vocab_size: V.
        context_length: Longest sequence in tokens.
        num_steps: N.
        d_state: Width d of queries, keys and values.
        d_mlp: Width m of the MLP's hidden layer.
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
        d_state: int = 64,
        d_mlp: int = 128,
        activation: str = "gelu",
        mode: str = "repaired",
        score_scale: str | None = None,
        **options: Any,
    ) -> None:
        scale = resolve(mode, score_scale=score_scale).score_scale

        def step() -> Step:
            memory = DecayMemory(
                linear(vocab_size, d_state), linear(vocab_size, d_state),
                linear(vocab_size, d_state), linear(d_state, vocab_size),
                d_key=d_state, d_value=d_state, scale=scale,
            )  # fmt: skip
            return Step(Residual(memory), Residual(Bottleneck(vocab_size, d_mlp, activation)))

        steps = [step() for _ in range(num_steps)]
        super().__init__(vocab_size, context_length, steps, mode=mode, **options)
