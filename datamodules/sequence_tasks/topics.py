"""Words of a hidden topic that stays for a while: what counts is everything since it changed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from datamodules.sequence_tasks.task import Law, Task, Tokens, numbered, require


@dataclass(frozen=True)
class Topics(Task):
    """A hidden Markov model: the topic stays with a fixed chance, else it is any other one.

    Each topic has an order of the words of its own, and its words follow Zipf's law: the r-th has
    a chance proportional to 1/r.

    Args:
        vocab_size: Words V.
        topics: Topics K.
        stay: Chance that the next word has the same topic.
    """

    vocab_size: int
    topics: int
    stay: float

    def __post_init__(self) -> None:
        require("vocab_size", self.vocab_size, 2)
        require("topics", self.topics, 2)
        require("stay", self.stay, 0.0, 1.0)

    @property
    def words(self) -> list[str]:
        return numbered(self.vocab_size)

    @property
    def shortest(self) -> int:
        return 1

    @cached_property
    def emissions(self) -> Float[np.ndarray, "topic word"]:
        """Chance of each word of each topic; the same in every run."""
        random = np.random.default_rng(42)
        ranks = random.permuted(np.tile(np.arange(self.vocab_size), (self.topics, 1)), axis=1)
        weights = 1 / (ranks + 1)
        return weights / weights[0].sum()

    @cached_property
    def transitions(self) -> Float[np.ndarray, "topic next"]:
        matrix = np.full((self.topics, self.topics), (1 - self.stay) / (self.topics - 1))
        np.fill_diagonal(matrix, self.stay)
        return matrix

    def draw(self, random: np.random.Generator, count: int, length: int) -> Tokens:
        moves = random.integers(1, self.topics, size=(count, length))
        moves[random.random((count, length)) < self.stay] = 0
        moves[:, 0] = random.integers(self.topics, size=count)
        topics = np.cumsum(moves, axis=1) % self.topics
        # One search for all topics: the k-th one's cumulative chances lie in [k, k + 1].
        borders = np.cumsum(self.emissions, axis=1) + np.arange(self.topics)[:, None]
        found = np.searchsorted(borders.ravel(), topics + random.random((count, length)))
        return np.clip(found - topics * self.vocab_size, 0, self.vocab_size - 1)

    def answers(self, tokens: Tokens) -> Bool[np.ndarray, "batch pos"]:
        """All: every word's chance depends on the topic."""
        return np.ones(tokens.shape, bool)

    def law(self, tokens: Tokens) -> Law:
        """By the forward algorithm."""
        belief = np.full((len(tokens), self.topics), 1 / self.topics)
        chance, best = np.empty(tokens.shape), np.empty(tokens.shape)
        for place, words in enumerate(tokens.T):
            predicted = belief @ self.emissions
            best[:, place] = predicted.max(axis=1)
            chance[:, place] = predicted[np.arange(len(tokens)), words]
            belief *= self.emissions[:, words].T / chance[:, place : place + 1]
            belief = belief @ self.transitions
        return Law(chance, best)
