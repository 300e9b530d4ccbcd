"""What parts of a vocabulary-space model can tell a reader: tables over words, ways they took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_ROWS = 1024
"""Words that a map is applied to at a time."""


@dataclass(frozen=True)
class WordMap:
    """A table over pairs of words, M = left right + diag(diagonal), kept in its factors.

    With `gap` above 0, M[i, j] is how strongly word i, read, pushes word j, which would then stand
    `gap` after i. With -1 it is how strongly i looks for an earlier j, which stands at least 1
    before. What an activation between the factors does is left out.
    """

    left: Float[Tensor, "vocab rank"]
    right: Float[Tensor, "rank vocab"]
    gap: int = 1
    diagonal: Float[Tensor, " vocab"] | None = None

    def rows(self, first: int, last: int) -> Float[Tensor, "rows vocab"]:
        """M[first:last], fp32."""
        rows = (self.left[first:last] @ self.right).float()
        if self.diagonal is not None:
            rows.diagonal(first).add_(self.diagonal[first:last])
        return rows

    def entries(self, i: Tensor, j: Tensor) -> Float[Tensor, " pairs"]:
        """M[i, j] of each pair of words, fp32."""
        found = [
            (self.left[a].float() * self.right.T[b].float()).sum(-1)
            for a, b in zip(i.split(_ROWS), j.split(_ROWS), strict=True)
        ]
        values = torch.cat(found) if found else self.left.new_zeros(0)
        if self.diagonal is None:
            return values
        return values + torch.where(i == j, self.diagonal[i].float(), 0)

    def scaled(self, gain: Float[Tensor, "*vocab"]) -> WordMap:
        """With what is pushed times a gain, of all words or of each."""
        diagonal = None if self.diagonal is None else self.diagonal * gain
        return replace(self, right=self.right * gain, diagonal=diagonal)

    def spread(self, read: Tensor, written: Tensor, vocab_size: int) -> WordMap:
        """That of all words, from a map of some that are read to some that are written.

        Args:
            read: int64 ids of the rows.
            written: int64 ids of the columns.
            vocab_size: V.
        """
        rank = self.left.shape[1]
        left = self.left.new_zeros(vocab_size, rank).index_copy(0, read, self.left)
        right = self.right.new_zeros(rank, vocab_size).index_copy(1, written, self.right)
        return WordMap(left, right, self.gap)


def diagonal_map(diagonal: Float[Tensor, " vocab"], gap: int = 1) -> WordMap:
    """The map of a part in which a word meets itself alone."""
    words = len(diagonal)
    return WordMap(diagonal.new_zeros(words, 0), diagonal.new_zeros(0, words), gap, diagonal)


def matrix_of(
    map: Callable[[Tensor], Tensor], width: int, like: Tensor
) -> Float[Tensor, "width to"]:
    """The matrix of a linear map of rows of this width: what it makes of each unit vector.

    Args:
        map: From (1, rows, width) to (1, rows, to).
        width: Of its input.
        like: Whose device and dtype the unit vectors have.
    """
    parts = []
    for first in range(0, width, _ROWS):
        rows = torch.arange(first, min(first + _ROWS, width), device=like.device)
        units = like.new_zeros(1, len(rows), width)
        units[0, rows - first, rows] = 1
        parts.append(map(units)[0])
    return torch.cat(parts)


@dataclass(frozen=True)
class Mixture:
    """Which of several ways a part took at each position."""

    names: tuple[str, ...]
    shares: Float[Tensor, "batch pos ways"]
    """At least 0, with sum 1, no noise in them."""


class Readable(nn.Module):
    """A module that can be asked about itself; what it has nothing to say to is empty."""

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        """Tables over words that its parameters hold, by name.

        Args:
            vocab_size: V.
        """
        return {}

    def listing(self, x: Any, *further: Any) -> dict[str, Mixture]:
        """Ways that it takes when `forward` is given this, without a cache; by name."""
        return {}

    def horizons(self) -> dict[str, Float[Tensor, " heads"]]:
        """How far back it remembers, 1 / (1 - decay) tokens, by name."""
        return {}


def prefixed(name: str, maps: dict[str, WordMap]) -> dict[str, WordMap]:
    """Maps of a part that has this name."""
    return {f"{name}.{inner}": map for inner, map in maps.items()}
