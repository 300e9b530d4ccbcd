"""v7: a program of instructions: read, mix operations of a shared bank, write (spec 3.7)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

import torch
from torch import nn

from crystalline.models.vocab_space.blocks import GAIN, Block, Residual, Shared, State, Step
from crystalline.models.vocab_space.fourier import (
    Basis,
    FourierMemory,
    Reader,
    Writer,
    fourier_basis,
)
from crystalline.models.vocab_space.model import VocabSpace
from crystalline.models.vocab_space.op_bank import OpBank, Selector
from crystalline.models.vocab_space.readable import Mixture
from crystalline.models.vocab_space.switches import resolve

OPERATIONS = ("identity", "relu", "gelu", "square", "negate", "abs", "tanh", "sigmoid")
"""From the first on again, if there are more. The signs of its map make `negate` an `identity`."""


class Instruction(Block):
    """gain * write(sum over o of weight_o op_o(read(x))), with weights that words have no say in.

    Args:
        basis: Phi.
        channels: C.
        read: Switch `fourier_read`.
        bank: Of the operations.
        selector: How they are chosen; where noise is drawn, each position draws its own.
    """

    def __init__(
        self,
        basis: Basis,
        channels: int,
        read: str,
        bank: OpBank,
        selector: Selector,
    ) -> None:
        super().__init__()
        self.reader = Reader(basis, channels, read)
        self.writer = Writer(basis, channels)
        self.bank = Shared(bank)
        self.names = tuple(bank.operations)
        self.logits = nn.Parameter(torch.zeros(len(self.names)))
        self.selector = selector
        self.gain = nn.Parameter(torch.tensor(GAIN))

    def forward(self, x: State, cache: Any = None) -> State:
        weights = self.selector(self.logits.expand(*x.shape[:-1], -1))
        return self.gain * self.writer(self.bank(self.reader(x), weights))

    def listing(self, x: State) -> dict[str, Mixture]:
        logits = self.logits.expand(*x.shape[:-1], -1)
        names = (f"{i} {name}" for i, name in enumerate(self.names))  # some may be there twice
        return {"operation": Mixture(tuple(names), self.selector.without_noise(logits))}


class Lgp(VocabSpace):
    """x + FourierMemory, then x + Instruction, N times; operations are shared by all steps.

    Args:
        vocab_size: V.
        context_length: Longest sequence in tokens.
        num_steps: N.
        channels: C.
        harmonics: K of the Fourier basis.
        num_ops: Operations in the bank.
        temperature: Of their selection, in the first and in the last round.
        mode: "faithful" or "repaired".
        score_scale: Switch; see `switches.SWITCHES`, as for the next ones. None: as the mode says.
        fourier_read: Switch, of instructions; the memories' reads are always linear.
        basis: Switch.
        basis_norm: Switch.
        selection: Switch.
        sampled_evaluation: Switch.
        operand_scale: Switch: "unit" brings each operation's result to root mean square 1.
        options: Of `VocabSpace`.

    Raises:
        ValueError: If there are no operations.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        num_steps: int = 8,
        channels: int = 128,
        harmonics: int = 16,
        num_ops: int = 8,
        temperature: Sequence[float] = (1.0, 1.0),
        mode: str = "repaired",
        score_scale: str | None = None,
        fourier_read: str | None = None,
        basis: str | None = None,
        basis_norm: str | None = None,
        selection: str | None = None,
        sampled_evaluation: str | None = None,
        operand_scale: str | None = None,
        **options: Any,
    ) -> None:
        if num_ops < 1:
            raise ValueError(f"model.num_ops must be at least 1, got {num_ops}")
        switches = resolve(
            mode,
            score_scale=score_scale,
            fourier_read=fourier_read,
            basis=basis,
            basis_norm=basis_norm,
            selection=selection,
            sampled_evaluation=sampled_evaluation,
            operand_scale=operand_scale,
        )
        phi = Basis(fourier_basis(vocab_size, harmonics), switches.basis, switches.basis_norm)
        names = list(islice(cycle(OPERATIONS), num_ops))
        bank = OpBank(names, channels, bias=True, unit=switches.operand_scale == "unit")

        def step() -> Step:
            selector = Selector(switches.selection, switches.sampled_evaluation, temperature)
            instruction = Instruction(phi, channels, switches.fourier_read, bank, selector)
            memory = FourierMemory(phi, channels, switches.score_scale)
            return Step(Residual(memory), Residual(instruction))

        steps = [step() for _ in range(num_steps)]
        super().__init__(vocab_size, context_length, steps, mode=mode, **options)
        self.bank, self.basis = bank, phi
