"""Words that come again: at a fixed distance, or after the word that they followed before."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from datamodules.sequence_tasks.task import Law, Task, Tokens, earlier, numbered, require


@dataclass(frozen=True)
class Copying(Task):
    """With chance p a word is that at its source in the sequence, if it has one; else uniform.

    The source follows from the words before, so the law is known exactly: a word with a source
    has chance p + (1 - p)/V if it equals it, else (1 - p)/V; one without has 1/V.

    Args:
        vocab_size: Words V.
        gap: Least distance from a word to its source, in tokens. No n-gram of up to that many
            tokens, the predicted one counted, sees a source.
        p_copy: p.
    """

    vocab_size: int
    gap: int
    p_copy: float

    def __post_init__(self) -> None:
        require("vocab_size", self.vocab_size, 2)
        require("gap", self.gap, 1)
        require("p_copy", self.p_copy, 0.0, 1.0)

    @property
    def words(self) -> list[str]:
        return numbered(self.vocab_size)

    @abstractmethod
    def sources(self, tokens: Tokens) -> Int[np.ndarray, "batch pos"]:
        """Where the word stands that each token may copy; -1 for none."""

    def answers(self, tokens: Tokens) -> Bool[np.ndarray, "batch pos"]:
        return self.sources(tokens) >= 0

    def law(self, tokens: Tokens) -> Law:
        sources = self.sources(tokens)
        copied = np.take_along_axis(tokens, np.maximum(sources, 0), axis=1) == tokens
        other = (1 - self.p_copy) / self.vocab_size
        likely = np.where(sources >= 0, self.p_copy + other, 1 / self.vocab_size)
        return Law(np.where((sources < 0) | copied, likely, other), likely)

    def _draw_parts(
        self, random: np.random.Generator, count: int, length: int
    ) -> tuple[Tokens, Bool[np.ndarray, "batch pos"]]:
        """Uniform words, and where copies stand instead."""
        words = random.integers(self.vocab_size, size=(count, length))
        return words, random.random((count, length)) < self.p_copy


@dataclass(frozen=True)
class DelayedCopy(Copying):
    """The source is exactly `gap` tokens before."""

    @property
    def shortest(self) -> int:
        return self.gap + 1

    def draw(self, random: np.random.Generator, count: int, length: int) -> Tokens:
        tokens, copies = self._draw_parts(random, count, length)
        for start in range(self.gap, length, self.gap):
            here = tokens[:, start : start + self.gap]
            before = tokens[:, start - self.gap : start][:, : here.shape[1]]
            np.copyto(here, before, where=copies[:, start : start + self.gap])
        return tokens

    def sources(self, tokens: Tokens) -> Int[np.ndarray, "batch pos"]:
        places = np.maximum(np.arange(tokens.shape[1]) - self.gap, -1)
        return np.broadcast_to(places, tokens.shape)


@dataclass(frozen=True)
class Induction(Copying):
    """A B ... A, then B: the source follows the last place of the word that stands just before.

    There is none if that word is new, or its last place is too near for `gap`.
    """

    @property
    def shortest(self) -> int:
        return self.gap + 2

    def draw(self, random: np.random.Generator, count: int, length: int) -> Tokens:
        tokens, copies = self._draw_parts(random, count, length)
        last = np.full((count, self.vocab_size), -1)
        rows = np.arange(count)
        for place in range(1, length):
            word = tokens[:, place - 1]
            source = last[rows, word] + 1
            copied = copies[:, place] & (source > 0) & (place - source >= self.gap)
            tokens[:, place] = np.where(copied, tokens[rows, source], tokens[:, place])
            last[rows, word] = place - 1
        return tokens

    def sources(self, tokens: Tokens) -> Int[np.ndarray, "batch pos"]:
        found = np.full(tokens.shape, -1)
        found[:, 1:] = earlier(tokens)[:, :-1] + 1
        near = np.arange(tokens.shape[1]) - found < self.gap
        return np.where((found < 1) | near, -1, found)
