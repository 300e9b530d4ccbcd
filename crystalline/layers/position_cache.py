"""Tensors of the positions seen so far, where each sequence of a batch has seen its own number."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


class PositionCache:
    """Named tensors that are written position by position and read whole.

    Args:
        batch: Sequences.
        length: Positions. What is written to position `length` is never read: the place for
            padding.
    """

    def __init__(self, batch: int, length: int) -> None:
        self.batch = batch
        self.length = length
        self.held: dict[str, Tensor] = {}

    def write(
        self,
        name: str,
        positions: Int[Tensor, "batch new"],
        values: Tensor,
        empty: float = 0,
    ) -> Tensor:
        """Store `values` (batch new ...) at `positions`; returns all `length` positions.

        Args:
            name: Of the tensor.
            positions: In [0, length]; those below `length` differ within a sequence.
            values: What is stored.
            empty: Stands where nothing has been written yet.
        """
        if name not in self.held:
            shape = (self.batch, self.length + 1, *values.shape[2:])
            self.held[name] = values.new_full(shape, empty)
        rows = torch.arange(self.batch, device=values.device)[:, None]
        self.held[name][rows, positions] = values
        return self.held[name][:, : self.length]


def turn(
    x: Float[Tensor, "batch head pos d_head"],
    positions: Int[Tensor, "batch pos"],
    cos: Float[Tensor, "length half"],
    sin: Float[Tensor, "length half"],
) -> Float[Tensor, "batch head pos d_head"]:
    """Rotary position embedding of `crystalline.layers.rotary` where positions differ by row."""
    where = positions.clamp(max=len(cos) - 1)
    c, s = cos[where][:, None], sin[where][:, None]
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * c - b * s, b * c + a * s], dim=-1).type_as(x)
