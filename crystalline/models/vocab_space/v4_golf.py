"""v4: ten passes through five steps, each with a few parameters of its own (spec 3.4)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crystalline.layers.parts import Parts
from crystalline.models.vocab_space.blocks import Residual, Shared, State, linear, normal, rms
from crystalline.models.vocab_space.fourier import (
    Basis,
    FourierMemory,
    FourierOp,
    fourier_basis,
)
from crystalline.models.vocab_space.model import Trace, VocabCache, VocabSpace
from crystalline.models.vocab_space.readable import Readable, WordMap, prefixed
from crystalline.models.vocab_space.switches import resolve


class DiagonalLowRank(nn.Module):
    """h (diag(delta) + M_1 M_2), (..., C) to (..., C); delta starts at 0.02.

    Args:
        channels: C.
        rank: Of M_1 M_2.
    """

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        self.diagonal = nn.Parameter(torch.full((channels,), 0.02))
        self.down = normal(channels, rank)
        self.up = normal(rank, channels)

    def forward(self, h: Float[Tensor, "*axes channels"]) -> Float[Tensor, "*axes channels"]:
        return h * self.diagonal + h @ self.down @ self.up


class Call(nn.Module):
    """What one pass through a step has for itself; the scalars start at 1.

    Args:
        num_heads: Of the step's memory.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.decay_shift = nn.Parameter(torch.zeros(num_heads))
        self.across = nn.Parameter(torch.ones(()))
        self.within = nn.Parameter(torch.ones(()))
        self.keep = nn.Parameter(torch.ones(()))


class Called(Residual):
    """x + share * gain * block(rms x), of which the share is the call's."""

    def forward(
        self, x: State, cache: Any = None, share: Tensor | float = 1.0, *further: Any
    ) -> State:
        return x + self.update(x, cache, share, *further).to(x.dtype)

    def update(
        self, x: State, cache: Any = None, share: Tensor | float = 1.0, *further: Any
    ) -> State:
        """What is added to the state; `further` is for the block."""
        return share * self.gain * self.block(rms(x.float()), cache, *further)


class SharedStep(Readable):
    """keep * (x + across a Memory(rms x), then + within b Op(rms x)), of which a and b are its own.

    Args:
        memory: Across positions, its heads' decays shifted by the call.
        op: Within a position.
    """

    def __init__(self, memory: FourierMemory, op: FourierOp) -> None:
        super().__init__()
        self.memory, self.op = Called(memory), Called(op)

    def forward(self, x: State, cache: Any, call: Call) -> State:
        x = self.memory(x, cache, call.across, call.decay_shift)
        x = self.op(x, None, call.within)
        return call.keep.to(x.dtype) * x

    def init_cache(self, batch: int) -> Any:
        return self.memory.init_cache(batch)

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        """Those of memory and op, with the step's gains and without a call's."""
        memory, op = self.memory.word_maps(vocab_size), self.op.word_maps(vocab_size)
        return prefixed("memory", memory) | prefixed("op", op)


class Golf(VocabSpace):
    """The smallest: passes share steps, and all steps share the maps to queries and keys.

    Args:
        vocab_size: V.
        context_length: Longest sequence in tokens.
        num_steps: N, passes: as evenly as can be, each step is taken several times in a row.
        unique_steps: Steps that are not alike.
        channels: C.
        harmonics: K of the Fourier basis.
        num_heads: Of the memories; their decay logits start at 1, ..., 5 in equal steps.
        rank: Of what mixes channels beside a diagonal.
        activation: gelu, relu, relu2 or silu.
        mode: "faithful" or "repaired".
        fourier_read: Switch; None: as the mode says.
        basis: Switch.
        basis_norm: Switch.
        options: Of `VocabSpace`.

    Raises:
        ValueError: If there are more steps than passes, or heads do not split the channels evenly.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        num_steps: int = 10,
        unique_steps: int = 5,
        channels: int = 128,
        harmonics: int = 16,
        num_heads: int = 4,
        rank: int = 8,
        activation: str = "gelu",
        mode: str = "repaired",
        fourier_read: str | None = None,
        basis: str | None = None,
        basis_norm: str | None = None,
        **options: Any,
    ) -> None:
        if channels % num_heads:
            raise ValueError(f"model.num_heads={num_heads} does not divide channels={channels}")
        if not 1 <= unique_steps <= num_steps:
            raise ValueError(
                f"model.unique_steps must lie in [1, num_steps={num_steps}], got {unique_steps}"
            )
        switches = resolve(mode, fourier_read=fourier_read, basis=basis, basis_norm=basis_norm)
        phi = Basis(fourier_basis(vocab_size, harmonics), switches.basis, switches.basis_norm)
        queries, keys = linear(2 * harmonics, channels), linear(2 * harmonics, channels)
        decays = torch.linspace(1, 5, num_heads, device="cpu").tolist()

        def step() -> SharedStep:
            memory = FourierMemory(
                phi, channels, "cosine", decays, queries=Shared(queries), keys=Shared(keys)
            )
            mix = DiagonalLowRank(channels, rank)
            return SharedStep(
                memory, FourierOp(phi, channels, switches.fourier_read, activation, mix)
            )

        steps = [step() for _ in range(unique_steps)]
        passes = [steps[number * unique_steps // num_steps] for number in range(num_steps)]
        super().__init__(vocab_size, context_length, passes, mode=mode, **options)
        self.queries, self.keys, self.basis = queries, keys, phi
        self.calls: Parts[Call] = Parts(Call(num_heads) for _ in passes)

    def run(self, x: State, trace: Trace, cache: VocabCache | None) -> State:
        for number, (index, call) in enumerate(zip(self.order, self.calls, strict=True)):
            x = self.steps[index](x, None if cache is None else cache.passes[number], call)
            x = self.after(number, x, trace)
        return x
