"""Which window of a token stream is read when: a pure function of (seed, round).

A window of T tokens starts at s and is scored on the T tokens after s. Positions are taken modulo
the stream's length: a stream opens with `<|endoftext|>`, so going on from its end to its start is
one more border between documents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Int

from crystalline.errors import UserError

Starts = Int[np.ndarray, " batch"]


class Windows(ABC):
    """An endless order of windows.

    Args:
        num_tokens: Length N of the stream.
        seq_len: Tokens a window T, less than N.
        seed: Decides the order.
    """

    def __init__(self, num_tokens: int, seq_len: int, seed: int) -> None:
        if not 0 < seq_len < num_tokens:
            raise ValueError(
                f"a window of {seq_len} tokens needs a stream of more, not {num_tokens}"
            )
        self.num_tokens = num_tokens
        self.seq_len = seq_len
        self.seed = seed

    @property
    @abstractmethod
    def num_windows(self) -> int:
        """Windows in one epoch."""

    @abstractmethod
    def starts(self, round_: int, batch_size: int) -> Starts:
        """Start of each window of a round's global batch, int64 in [0, N)."""


class EpochWindows(Windows):
    """Epoch after epoch of all windows in random order; a round's batch may span two epochs."""

    def __init__(self, num_tokens: int, seq_len: int, seed: int) -> None:
        super().__init__(num_tokens, seq_len, seed)
        self._epochs: dict[int, Starts] = {}

    @abstractmethod
    def epoch(self, number: int) -> Starts:
        """Starts of all windows of an epoch in their order."""

    def starts(self, round_: int, batch_size: int) -> Starts:
        numbers = np.arange(round_ * batch_size, (round_ + 1) * batch_size)
        epochs, places = np.divmod(numbers, self.num_windows)
        needed = np.unique(epochs).tolist()
        self._epochs = {e: self._epochs[e] if e in self._epochs else self.epoch(e) for e in needed}
        return np.concatenate([self._epochs[e][places[epochs == e]] for e in needed])

    def random(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch])


class ShuffleWindows(EpochWindows):
    """Windows without overlap behind a random phase: in an epoch every token is scored once.

    The N mod T tokens that fill no whole window are others in each epoch.
    """

    @property
    def num_windows(self) -> int:
        return self.num_tokens // self.seq_len

    def epoch(self, number: int) -> Starts:
        random = self.random(number)
        phase = random.integers(self.num_tokens)
        return (phase + random.permutation(self.num_windows) * self.seq_len) % self.num_tokens


class OverlapWindows(EpochWindows):
    """Every start that is a multiple of `stride`, in a random order each epoch."""

    def __init__(self, num_tokens: int, seq_len: int, seed: int, stride: int) -> None:
        super().__init__(num_tokens, seq_len, seed)
        if stride < 1:
            raise UserError(f"data.stride must be at least 1, got {stride}")
        self.stride = stride

    @property
    def num_windows(self) -> int:
        return (self.num_tokens - self.seq_len - 1) // self.stride + 1

    def epoch(self, number: int) -> Starts:
        return self.random(number).permutation(self.num_windows) * self.stride


class RandomWindows(Windows):
    """Uniform starts, drawn for each round alone: nothing grows with the corpus."""

    @property
    def num_windows(self) -> int:
        return self.num_tokens // self.seq_len

    def starts(self, round_: int, batch_size: int) -> Starts:
        random = np.random.default_rng([self.seed, round_])
        return random.integers(self.num_tokens, size=batch_size)


def make_windows(kind: str, num_tokens: int, seq_len: int, seed: int, stride: int) -> Windows:
    """The order that `data.windows` names.

    Raises:
        UserError: If there is no such order.
    """
    match kind:
        case "shuffle":
            return ShuffleWindows(num_tokens, seq_len, seed)
        case "random":
            return RandomWindows(num_tokens, seq_len, seed)
        case "overlap":
            return OverlapWindows(num_tokens, seq_len, seed, stride)
    raise UserError(f"data.windows must be shuffle, random or overlap, got {kind!r}")
