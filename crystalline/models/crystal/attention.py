"""The layer that lets a neuron field see the past: one causal attention with learned positions.

Scores are q.k / sqrt(d), or, in the geometric kind, minus the distance between the vectors
themselves: no queries, keys or values are learned, each token is an anchor for those that follow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from crystalline.layers.attention import KeyValueCache, attend


class FrontAttention(nn.Module, ABC):
    """Causal multi-head attention with biases, positions come with the input.

    Args:
        d_model: Width, a multiple of `num_heads`.
        num_heads: Heads.
        context_length: Longest sequence in tokens.
        fading: Distance in tokens over which a weight falls by e beside what the scores say;
            None: none.
        dropout: On the output.

    Raises:
        ValueError: If `num_heads` does not divide `d_model`, or `fading` is not positive.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        context_length: int,
        fading: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"model.num_heads must divide d_model, got {num_heads} and {d_model}")
        if fading is not None and fading <= 0:
            raise ValueError(f"model.fading must be positive or null, got {fading}")
        self.num_heads = num_heads
        self.context_length = context_length
        self.fading = fading
        self.out = nn.Linear(d_model, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch pos d_model"], cache: KeyValueCache | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        q, k, v = self.heads(x)
        start = 0 if cache is None else cache.length
        if cache is not None:
            k, v = cache.append(k, v)
        read = self.read(q, k, v, start)
        return self.dropout(self.out(rearrange(read, "batch head pos d -> batch pos (head d)")))

    @abstractmethod
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (batch, head, pos, d_head)."""

    @abstractmethod
    def read(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Tensor:
        """Means of `v` over the past, for queries from position `start` on."""

    def init_cache(self, batch: int) -> KeyValueCache:
        d_head = self.out.in_features // self.num_heads
        return KeyValueCache(batch, self.num_heads, self.context_length, d_head, self.out.weight)

    def bias(self, q: Tensor, k: Tensor, start: int) -> Float[Tensor, "q k"]:
        """-inf for the future, minus the gap over `fading` for the past."""
        gap = torch.arange(q.shape[-2], device=q.device)[:, None] + start
        gap = gap - torch.arange(k.shape[-2], device=q.device)
        bias = torch.zeros_like(gap, dtype=q.dtype)
        if self.fading is not None:
            bias = -gap.to(q.dtype) / self.fading
        return bias.masked_fill(gap < 0, -torch.inf)


class DotAttention(FrontAttention):
    """Learned queries, keys and values."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        context_length: int,
        fading: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(d_model, num_heads, context_length, fading, dropout)
        self.qkv = nn.Linear(d_model, 3 * d_model)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = rearrange(
            self.qkv(x),
            "batch pos (three head d) -> three batch head pos d",
            three=3,
            head=self.num_heads,
        )
        return q, k, v

    def read(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Tensor:
        if self.fading is None:
            return attend(q, k, v, start)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias(q, k, start))


class GeometricAttention(FrontAttention):
    """Weights fall with the distance of two vectors, a share of their coordinates a head."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        context_length: int,
        fading: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(d_model, num_heads, context_length, fading, dropout)
        self.width = nn.Parameter(torch.ones(num_heads))

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        part = rearrange(x, "batch pos (head d) -> batch head pos d", head=self.num_heads)
        return part, part, part

    def read(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            # Not by a matrix product: a token lies at distance 0 from itself, where that is coarse.
            distance = torch.cdist(
                q.float(), k.float(), compute_mode="donot_use_mm_for_euclid_dist"
            )
        scores = self.bias(q, k, start) - distance / F.softplus(self.width)[:, None, None]
        return scores.softmax(-1).to(v.dtype) @ v
