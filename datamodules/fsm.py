"""Sequences of a finite state machine, generated as they are asked for."""

from __future__ import annotations

import numpy as np

from crystalline.errors import UserError
from crystalline.tokenizer import DigitTokenizer
from datamodules.bayes import bayes
from datamodules.documents import hash_of
from datamodules.generated import EVAL_SEQUENCES, GeneratedDataModule
from datamodules.machine import (
    LENGTH,
    Machine,
    Walks,
    group_machine,
    hidden_machine,
    random_machine,
)

VARIANTS = {
    "paper": lambda: random_machine(100, 10),
    "wide2": lambda: random_machine(128, 2),
    "wide16": lambda: random_machine(128, 16),
    "hidden": hidden_machine,
    "group": group_machine,
}


class FSMDataModule(GeneratedDataModule[Walks]):
    """TokFSM and its variants: 128 tokens a sequence, so 127 positions with a target.

    Args:
        variant: "paper" (100 states, two digits), "wide2" and "wide16" (128 states in base 2 or
            16), "hidden" (two states write the same digits), "group" (products in S5).
        batch_size: Sequences in the global batch of a round, over all processes.
        eval_batch_size: Sequences in an evaluation batch of one process.
        seed: Decides the training sequences.
    """

    def __init__(self, variant: str, batch_size: int, eval_batch_size: int, seed: int) -> None:
        super().__init__(batch_size, eval_batch_size, seed)
        if variant not in VARIANTS:
            raise UserError(f"data.variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
        self.machine: Machine = VARIANTS[variant]()
        self.tokenizer = DigitTokenizer(self.machine.base)
        self.fingerprint = hash_of("fsm", variant, str(self.machine.successors.tolist()))

    @property
    def seq_len(self) -> int:
        return LENGTH - 1

    def draw(self, random: np.random.Generator, count: int) -> Walks:
        return self.machine.sample(random, count)

    def describe(self) -> list[str]:
        best = bayes(self.machine)
        return [
            f"fsm: fingerprint {self.fingerprint}, vocabulary {self.vocab_size}, "
            f"{self.machine.num_states} states, generated without end",
            f"best possible loss {best.loss:.4f} nats, accuracy {100 * best.accuracy:.2f} %",
            f"val and test: {EVAL_SEQUENCES:,} sequences of {LENGTH} tokens each",
        ]
