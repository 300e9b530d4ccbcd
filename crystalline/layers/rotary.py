"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), halves convention."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Rotary(nn.Module):
    """Turns the pair (x_m, x_{m + d/2}) at position t by the angle t / base**(2 m / d).

    Args:
        d_head: Width of a head, even.
        length: Positions that tables are made for.
        base: Longest wavelength over 2 pi.

    Raises:
        ValueError: If `d_head` is odd.
    """

    cos: Float[Tensor, "length half"]
    sin: Float[Tensor, "length half"]

    def __init__(self, d_head: int, length: int, base: float = 10_000.0) -> None:
        super().__init__()
        if d_head % 2:
            raise ValueError(f"rotary position needs an even d_model / num_heads, got {d_head}")
        rates = base ** (-torch.arange(0, d_head, 2, dtype=torch.float32) / d_head)
        angles = torch.arange(length, dtype=torch.float32)[:, None] * rates
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(
        self, x: Float[Tensor, "batch head pos d_head"], start: int = 0
    ) -> Float[Tensor, "batch head pos d_head"]:
        """`x` turned, its first position being `start`."""
        stop = start + x.shape[-2]
        cos, sin = self.cos[start:stop], self.sin[start:stop]
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).type_as(x)
