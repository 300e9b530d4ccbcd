"""Data without end: sequences that are drawn as they are asked for."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from datamodules.batch import Batch
from datamodules.rounds import RoundDataModule

EVAL_SEQUENCES = 2048
"""Sequences of each evaluation split."""

Drawn = TypeVar("Drawn", bound=tuple[Any, ...])
"""A NamedTuple of arrays with a row a sequence; its field `tokens` opens with the special token."""


class GeneratedDataModule(RoundDataModule, Generic[Drawn]):
    """What is drawn is a function of (seed, round) in training, and of the split in evaluation.

    Validation and test sequences are the same for every seed. There is no end of data; an epoch
    is as many sequences as an evaluation split.

    Args:
        batch_size: Sequences in the global batch of a round, over all processes.
        eval_batch_size: Sequences in an evaluation batch of one process.
        seed: Decides the training sequences.
    """

    is_text = False
    split_bytes = None

    def __init__(self, batch_size: int, eval_batch_size: int, seed: int) -> None:
        super().__init__(batch_size, eval_batch_size)
        self._seed = seed
        self._eval: dict[str, Drawn] = {}

    @abstractmethod
    def draw(self, random: np.random.Generator, count: int) -> Drawn:
        """Independent sequences with what is known about them."""

    def batch(self, drawn: Drawn) -> Batch:
        """Sequences as a model sees them; every target is scored."""
        rows = torch.from_numpy(drawn.tokens)  # type: ignore[attr-defined]
        return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())

    @property
    def rounds_per_epoch(self) -> int:
        return math.ceil(EVAL_SEQUENCES / self.batch_size)

    def train_tokens(self) -> None:
        return None

    def train_drawn(self, round_: int) -> Drawn:
        """The sequences of a round."""
        return self.draw(np.random.default_rng([self._seed, round_]), self.batch_size)

    def eval_drawn(self, split: str) -> Drawn:
        """Sequences of an evaluation split; "train" is those trained first."""
        if split not in self._eval:
            self._eval[split] = self._draw_eval(split)
        return self._eval[split]

    def _draw_eval(self, split: str) -> Drawn:
        if split == "train":
            rounds = [self.train_drawn(round_) for round_ in range(self.rounds_per_epoch)]
            parts = zip(*rounds, strict=True)
            return type(rounds[0])(*(np.concatenate(part)[:EVAL_SEQUENCES] for part in parts))
        # Three numbers never meet the two that seed a round.
        random = np.random.default_rng([0, 0, {"val": 1, "test": 2}[split]])
        return self.draw(random, EVAL_SEQUENCES)

    def train_batch(self, round_: int) -> Batch:
        return self.batch(self.train_drawn(round_))

    def num_eval_windows(self, split: str) -> int:
        return EVAL_SEQUENCES

    def eval_windows(self, split: str, numbers: np.ndarray) -> Batch:
        drawn = self.eval_drawn(split)
        return self.batch(type(drawn)(*(part[numbers] for part in drawn)))
