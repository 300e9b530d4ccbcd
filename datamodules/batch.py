"""What a data loader yields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

IGNORED = -100
"""A target with this value is not scored."""


class Batch(NamedTuple):
    """Sequences and what follows each of their tokens."""

    tokens: Int[Tensor, "batch pos"]
    """int64 ids."""
    targets: Int[Tensor, "batch pos"]
    """int64; the token after each of `tokens`, or `IGNORED`."""

    def pin(self) -> Batch:
        """The same batch in page-locked memory, from which copies to a GPU need not wait."""
        return Batch(self.tokens.pin_memory(), self.targets.pin_memory())

    def rows(self, start: int, stop: int) -> Batch:
        """Sequences `start` to `stop` of the batch."""
        return Batch(self.tokens[start:stop], self.targets[start:stop])

    def padded(self, size: int) -> Batch:
        """The batch with sequences that are not scored appended until it holds `size`."""
        missing = size - len(self.tokens)
        blank = self.tokens.new_zeros(missing, self.tokens.shape[1])
        ignored = torch.full_like(blank, IGNORED)
        return Batch(torch.cat([self.tokens, blank]), torch.cat([self.targets, ignored]))


def without_padding(
    tokens: Int[Tensor, "batch pos"], targets: Int[Tensor, "batch pos"]
) -> Iterator[Batch]:
    """The rows cut behind their last scored target, rows of one length together, longest first.

    Rows without one are left out.
    """
    places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    lengths = ((targets != IGNORED) * places).amax(dim=1)
    for length in lengths.unique().tolist()[::-1]:
        if length > 0:
            rows = lengths == length
            yield Batch(tokens[rows, :length], targets[rows, :length])
