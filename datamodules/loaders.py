"""Iterables of batches: training rounds without end, evaluation windows once each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Int

from crystalline.errors import UserError
from datamodules.batch import IGNORED, Batch


class RoundLoader:
    """One rank's part of every global batch from round `start` on, without end.

    Args:
        train_batch: The global batch of a round.
        start: First round.
        rank: This process, in [0, world_size).
        world_size: Number of processes that share a global batch.
        batch_size: Sequences in a global batch.
        pin_memory: Whether batches lie in page-locked memory.

    Raises:
        UserError: If the batch cannot be shared equally.
    """

    def __init__(
        self,
        train_batch: Callable[[int], Batch],
        *,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int,
        pin_memory: bool = False,
    ) -> None:
        if batch_size % world_size:
            raise UserError(
                f"data.batch_size={batch_size} cannot be shared by {world_size} processes; "
                f"take a multiple of {world_size}"
            )
        self._train_batch = train_batch
        self._start = start
        self._share = batch_size // world_size
        self._first = rank * self._share
        self._pin_memory = pin_memory

    def __iter__(self) -> Iterator[Batch]:
        round_ = self._start
        while True:
            batch = self._train_batch(round_).rows(self._first, self._first + self._share)
            yield batch.pin() if self._pin_memory else batch
            round_ += 1


class EvaluationLoader:
    """Every window once over all ranks, in equally many batches of equal shape on each of them.

    Where the windows cannot be shared equally, sequences that are not scored fill the gap, so
    that collectives in an evaluation step meet on every rank.

    Args:
        read: Windows by number, in the order asked for.
        num_windows: How many there are.
        batch_size: Most sequences in a batch of one rank.
        rank: This process, in [0, world_size).
        world_size: Number of processes.
        pin_memory: Whether batches lie in page-locked memory.
    """

    def __init__(
        self,
        read: Callable[[Int[np.ndarray, " batch"]], Batch],
        num_windows: int,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        self._read = read
        self._num_windows = num_windows
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size
        self._pin_memory = pin_memory

    def __len__(self) -> int:
        return math.ceil(self._num_windows / (self._batch_size * self._world_size))

    def __iter__(self) -> Iterator[Batch]:
        step = self._batch_size * self._world_size
        for first in range(0, self._num_windows, step):
            count = min(step, self._num_windows - first)
            share = math.ceil(count / self._world_size)
            start = min(self._rank * share, count - 1)
            stop = min((self._rank + 1) * share, count)
            batch = self._read(np.arange(first + start, first + max(stop, start + 1)))
            if self._rank * share >= count:  # a window of another rank, for its shape alone
                batch = Batch(batch.tokens, torch.full_like(batch.targets, IGNORED))
            batch = batch.padded(share)
            yield batch.pin() if self._pin_memory else batch
