"""What a task of generated sequences is: its law, its answers, and what its best predictor pays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from crystalline.errors import UserError

Tokens = Int[np.ndarray, "batch pos"]
"""int64 ids without the special one that opens a sequence."""


class Law(NamedTuple):
    """What a predictor that knows the task gives each token, given those before it."""

    chance: Float[np.ndarray, "batch pos"]
    """Of the token that stands there."""
    best: Float[np.ndarray, "batch pos"]
    """Of the likeliest token."""


class Task(ABC):
    """A law of sequences whose tokens are the words of a list and a special one after them.

    Arrays are without the special token that opens every sequence. Randomness is that of the
    generator alone, so that equal generators give equal sequences.
    """

    @property
    @abstractmethod
    def words(self) -> list[str]:
        """Names of the ids from 0; the special id is their number."""

    @property
    @abstractmethod
    def shortest(self) -> int:
        """Tokens that a sequence needs for an answer to be possible."""

    @abstractmethod
    def draw(self, random: np.random.Generator, count: int, length: int) -> Tokens:
        """Independent sequences."""

    @abstractmethod
    def answers(self, tokens: Tokens) -> Bool[np.ndarray, "batch pos"]:
        """Which tokens the context says something about.

        Whether one is follows from those before it: being asked gives nothing away, and `law` is
        the best also for a predictor that is asked for answers alone.
        """

    @abstractmethod
    def law(self, tokens: Tokens) -> Law:
        """The exact chances under the law that `draw` follows."""


def numbered(count: int) -> list[str]:
    """Words that are numbers from 0."""
    return [str(number) for number in range(count)]


def earlier(tokens: Tokens) -> Int[np.ndarray, "batch pos"]:
    """Where each token last stood before in its sequence; -1 where it is new."""
    order = np.argsort(tokens, axis=1, kind="stable")
    ordered = np.take_along_axis(tokens, order, axis=1)
    before = np.full_like(order, -1)
    before[:, 1:] = np.where(ordered[:, 1:] == ordered[:, :-1], order[:, :-1], -1)
    found = np.empty_like(order)
    np.put_along_axis(found, order, before, axis=1)
    return found


def require(key: str, value: Any, least: float, most: float | None = None) -> None:
    """Refuse an option of the data that is out of range.

    Raises:
        UserError: If it is, is no number, or no whole one though its least value is.
    """
    kinds, kind = (int, "a whole number") if isinstance(least, int) else (int | float, "a number")
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise UserError(f"data.{key} must be {kind}, got {value}")
    if not (value >= least and (most is None or value <= most)):  # a NaN too
        span = f"be at least {least}" if most is None else f"lie between {least} and {most}"
        raise UserError(f"data.{key} must {span}, got {value}")
