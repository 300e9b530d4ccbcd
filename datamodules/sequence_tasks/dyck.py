"""Brackets of several kinds: what closes must be what was opened last."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from datamodules.sequence_tasks.task import Law, Task, Tokens, require


@dataclass(frozen=True)
class Dyck(Task):
    """Beginnings of balanced sequences of brackets.

    Where nothing is open a bracket opens, at the greatest depth one closes, between them either
    happens with chance 1/2. Kinds are uniform.

    Args:
        kinds: Kinds of brackets K; ids below K open, the next K close.
        depth: Most brackets that are open at once.
    """

    kinds: int
    depth: int

    def __post_init__(self) -> None:
        require("kinds", self.kinds, 1)
        require("depth", self.depth, 1)

    @property
    def words(self) -> list[str]:
        return [f"{side}{kind}" for side in "()" for kind in range(self.kinds)]

    @property
    def shortest(self) -> int:
        return 2

    def draw(self, random: np.random.Generator, count: int, length: int) -> Tokens:
        opens = random.integers(2, size=(count, length)).astype(bool)
        tokens = random.integers(self.kinds, size=(count, length))
        stack = np.zeros((count, self.depth + 1), np.int64)
        depth, rows = np.zeros(count, np.int64), np.arange(count)
        for place in range(length):
            opening = (opens[:, place] | (depth == 0)) & (depth < self.depth)
            closed = stack[rows, depth] + self.kinds
            depth += np.where(opening, 1, -1)
            stack[rows, depth] = np.where(opening, tokens[:, place], stack[rows, depth])
            tokens[:, place] = np.where(opening, tokens[:, place], closed)
        return tokens

    def depths(self, tokens: Tokens) -> Int[np.ndarray, "batch pos"]:
        """Brackets that are open before each token."""
        steps = np.where(tokens < self.kinds, 1, -1)
        return np.cumsum(steps, axis=1) - steps

    def answers(self, tokens: Tokens) -> Bool[np.ndarray, "batch pos"]:
        """Where something is open: closing brackets alone would tell that they close."""
        return self.depths(tokens) > 0

    def law(self, tokens: Tokens) -> Law:
        depth = self.depths(tokens)
        side = np.where((depth > 0) & (depth < self.depth), 0.5, 1.0)
        chance = np.where(tokens < self.kinds, side / self.kinds, side)
        return Law(chance, np.where(depth == 0, 1 / self.kinds, side))
