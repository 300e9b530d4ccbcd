"""The DataModule of all corpora: the global batch of a round is a function of (seed, round)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import lightning
import numpy as np
import torch

from crystalline.errors import UserError
from crystalline.tokenizer import Tokenizer
from datamodules.batch import Batch
from datamodules.loaders import EvaluationLoader, RoundLoader


class RoundDataModule(lightning.LightningDataModule, ABC):
    """Loaders for training, which never ends, and for evaluation, which reads everything once.

    `prepare_data` may be called by any number of processes; everything below it is there after
    `setup`.

    Args:
        batch_size: Sequences in the global batch of a round, over all processes.
        eval_batch_size: Sequences in an evaluation batch of one process.
    """

    tokenizer: Tokenizer
    fingerprint: str
    """Names the corpus: equal exactly where the scored text of all splits is."""
    is_text: bool
    """Whether decoded tokens can be read."""
    split_bytes: dict[str, int] | None
    """UTF-8 bytes of the text that each split's evaluation scores: what bits per byte divide by.
    The entry "train" belongs to `train_eval_dataloader`. None where bytes mean nothing."""

    def __init__(self, batch_size: int, eval_batch_size: int) -> None:
        super().__init__()
        for key, value in {"batch_size": batch_size, "eval_batch_size": eval_batch_size}.items():
            if value < 1:
                raise UserError(f"data.{key} must be at least 1, got {value}")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    @abstractmethod
    def rounds_per_epoch(self) -> int:
        """Rounds until every training window has been read once."""

    @abstractmethod
    def train_batch(self, round_: int) -> Batch:
        """The global batch of a round, counted from 0."""

    @abstractmethod
    def train_tokens(self) -> np.ndarray | None:
        """Ids of the training split, 1-D and memory-mapped; None where data is generated."""

    @abstractmethod
    def num_eval_windows(self, split: str) -> int:
        """Number of evaluation windows of "train", "val" or "test"."""

    @abstractmethod
    def eval_windows(self, split: str, numbers: np.ndarray) -> Batch:
        """The evaluation windows with these numbers."""

    def train_windows(self, count: int) -> Iterator[Batch]:
        """The first `count` windows of training, a round at a time."""
        for start in range(0, count, self.batch_size):
            batch, left = self.train_batch(start // self.batch_size), count - start
            yield Batch(batch.tokens[:left], batch.targets[:left])

    def spread_windows(self, split: str, count: int) -> Iterator[Batch]:
        """At most `count` evaluation windows, spread evenly over the split, in batches."""
        total = self.num_eval_windows(split)
        count = min(count, total)
        numbers = np.arange(count) * total // max(count, 1)
        for start in range(0, count, self.eval_batch_size):
            yield self.eval_windows(split, numbers[start : start + self.eval_batch_size])

    @abstractmethod
    def describe(self) -> list[str]:
        """The splits as lines of a table."""

    def train_dataloader(self) -> Iterable[Batch]:
        """Every round from the trainer's `global_step` on, without end."""
        return RoundLoader(
            self.train_batch,
            start=self.trainer.global_step if self.trainer else 0,
            batch_size=self.batch_size,
            **self._place(),
        )

    def val_dataloader(self) -> Iterable[Batch] | Sized:
        return self._evaluation("val")

    def test_dataloader(self) -> Iterable[Batch] | Sized:
        return self._evaluation("test")

    def train_eval_dataloader(self) -> Iterable[Batch] | Sized:
        """A fixed part of the training split, about as large as the validation split."""
        return self._evaluation("train")

    def _evaluation(self, split: str) -> EvaluationLoader:
        def read(numbers: np.ndarray) -> Batch:
            return self.eval_windows(split, numbers)

        count = self.num_eval_windows(split)
        return EvaluationLoader(read, count, batch_size=self.eval_batch_size, **self._place())

    def _place(self) -> dict[str, Any]:
        """Which share of a batch is ours, and in which memory."""
        if self.trainer is None:
            return {}
        return {
            "rank": self.trainer.global_rank,
            "world_size": self.trainer.world_size,
            "pin_memory": torch.device(self.trainer.strategy.root_device).type == "cuda",
        }
