"""Sequences of a finite state machine, generated as they are asked for."""

from __future__ import annotations

import math

import numpy as np
import torch

from crystalline.errors import UserError
from crystalline.tokenizer import DigitTokenizer
from datamodules.batch import Batch
from datamodules.bayes import bayes
from datamodules.documents import hash_of
from datamodules.machine import (
    LENGTH,
    Machine,
    Walks,
    group_machine,
    hidden_machine,
    random_machine,
)
from datamodules.rounds import RoundDataModule

EVAL_SEQUENCES = 2048
"""Sequences of each evaluation split, as in the paper."""
VARIANTS = {
    "paper": lambda: random_machine(100, 10),
    "wide2": lambda: random_machine(128, 2),
    "wide16": lambda: random_machine(128, 16),
    "hidden": hidden_machine,
    "group": group_machine,
}


class FSMDataModule(RoundDataModule):
    """TokFSM and its variants: 128 tokens a sequence, so 127 positions with a target.

    Validation and test sequences are the same for every seed. There is no end of data; an epoch
    is as many sequences as an evaluation split.

    Args:
        variant: "paper" (100 states, two digits), "wide2" and "wide16" (128 states in base 2 or
            16), "hidden" (two states write the same digits), "group" (products in S5).
        batch_size: Sequences in the global batch of a round, over all processes.
        eval_batch_size: Sequences in an evaluation batch of one process.
        seed: Decides the training sequences.
    """

    is_text = False
    split_bytes = None

    def __init__(self, variant: str, batch_size: int, eval_batch_size: int, seed: int) -> None:
        super().__init__(batch_size, eval_batch_size)
        if variant not in VARIANTS:
            raise UserError(f"data.variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
        self.machine: Machine = VARIANTS[variant]()
        self.tokenizer = DigitTokenizer(self.machine.base)
        self.fingerprint = hash_of("fsm", variant, str(self.machine.successors.tolist()))
        self._seed = seed
        self._eval_walks: dict[str, Walks] = {}

    @property
    def seq_len(self) -> int:
        return LENGTH - 1

    @property
    def rounds_per_epoch(self) -> int:
        return math.ceil(EVAL_SEQUENCES / self.batch_size)

    def train_tokens(self) -> None:
        return None

    def train_walks(self, round_: int) -> Walks:
        """The sequences of a round with their states."""
        return self.machine.sample(np.random.default_rng([self._seed, round_]), self.batch_size)

    def eval_walks(self, split: str) -> Walks:
        """Sequences of an evaluation split with their states; "train" is those trained first."""
        if split not in self._eval_walks:
            self._eval_walks[split] = self._make_eval_walks(split)
        return self._eval_walks[split]

    def _make_eval_walks(self, split: str) -> Walks:
        if split == "train":
            rounds = [self.train_walks(round_) for round_ in range(self.rounds_per_epoch)]
            return Walks(
                *(np.concatenate(part)[:EVAL_SEQUENCES] for part in zip(*rounds, strict=True))
            )
        # Three numbers never meet the two that seed a round.
        random = np.random.default_rng([0, 0, {"val": 1, "test": 2}[split]])
        return self.machine.sample(random, EVAL_SEQUENCES)

    def describe(self) -> list[str]:
        best = bayes(self.machine)
        return [
            f"fsm: fingerprint {self.fingerprint}, vocabulary {self.vocab_size}, "
            f"{self.machine.num_states} states, generated without end",
            f"best possible loss {best.loss:.4f} nats, accuracy {100 * best.accuracy:.2f} %",
            f"val and test: {EVAL_SEQUENCES:,} sequences of {LENGTH} tokens each",
        ]

    def train_batch(self, round_: int) -> Batch:
        return _shifted(self.train_walks(round_).tokens)

    def num_eval_windows(self, split: str) -> int:
        return EVAL_SEQUENCES

    def eval_windows(self, split: str, numbers: np.ndarray) -> Batch:
        return _shifted(self.eval_walks(split).tokens[numbers])


def _shifted(tokens: np.ndarray) -> Batch:
    rows = torch.from_numpy(tokens)
    return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
