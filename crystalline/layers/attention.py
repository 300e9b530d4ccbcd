"""Causal multi-head attention with rotary positions and a key-value cache."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from crystalline.layers.rotary import Rotary

Reach = Literal["self", "past", "before"]
"""What a position's heads read: it and earlier ones; earlier ones or nothing; or what the position
before it reads, by that one's query."""


class KeyValueCache:
    """Keys and values of the positions seen so far."""

    def __init__(self, batch: int, num_heads: int, length: int, d_head: int, like: Tensor) -> None:
        self.keys = like.new_empty(batch, num_heads, length, d_head)
        self.values = torch.empty_like(self.keys)
        self.length = 0
        self.before: Tensor | None = None
        """With `reach="before"`: the input of the last position seen, (batch, 1, d_model)."""

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new positions; returns all keys and values up to and including them."""
        stop = self.length + keys.shape[-2]
        self.keys[:, :, self.length : stop] = keys
        self.values[:, :, self.length : stop] = values
        self.length = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]


def attend(
    q: Float[Tensor, "batch head pos d_head"],
    k: Float[Tensor, "batch kv_head seen d_head"],
    v: Float[Tensor, "batch kv_head seen d_head"],
    start: int = 0,
) -> Float[Tensor, "batch head pos d_head"]:
    """softmax(q k^T / sqrt(d_head)) v over the past and the position itself.

    Args:
        q: Queries, the first one at position `start`.
        k: Keys from position 0 on; `head` is a multiple of `kv_head`, and neighbours share.
        v: Values.
        start: Positions before the first query.
    """
    mask = None
    if start:  # query i stands at position start + i
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril(start)
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
    )


class CausalSelfAttention(nn.Module):
    """softmax(q k^T / sqrt(d_head)) v over the past, by `scaled_dot_product_attention`.

    Args:
        d_model: Width, a multiple of `num_heads`.
        num_heads: Number of heads.
        context_length: Longest sequence in tokens.
        dropout: On the output map.
        reach: "self": a position reads itself too. "past": it reads earlier ones, or a key and a
            value of zeros that stand before the first. "before": queries too come from the position
            before, zeros from before the first, so that nothing is said of the position itself.

    Raises:
        ValueError: If `num_heads` does not divide `d_model`, or `reach` is unknown.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        context_length: int,
        dropout: float = 0.0,
        reach: Reach = "self",
    ) -> None:
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"num_heads must divide d_model, got {num_heads} and {d_model}")
        self.num_heads = num_heads
        self.context_length = context_length
        if reach not in get_args(Reach):
            raise ValueError(f"reach must be one of {', '.join(get_args(Reach))}, got {reach!r}")
        self.reach: Reach = reach
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.rotary = Rotary(d_model // num_heads, context_length)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch pos d_model"], cache: KeyValueCache | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        return self.dropout(self.out(self.mix(x, cache)))

    def mix(
        self, x: Float[Tensor, "batch pos d_model"], cache: KeyValueCache | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """What the heads have read, side by side, before the output map."""
        if self.reach == "before":
            x = _one_later(x, cache)
        q, k, v = rearrange(
            self.qkv(x),
            "batch pos (three head d) -> three batch head pos d",
            three=3,
            head=self.num_heads,
        )
        start = 0 if cache is None else cache.length
        q, k = self.rotary(q, start), self.rotary(k, start)
        if cache is not None:
            k, v = cache.append(k, v)
        if self.reach == "past":  # all one place later, so that the mask's diagonal is the past
            k, v = (F.pad(past[..., :-1, :], (0, 0, 1, 0)) for past in (k, v))
        return rearrange(attend(q, k, v, start), "batch head pos d -> batch pos (head d)")

    def init_cache(self, batch: int) -> KeyValueCache:
        d_head = self.qkv.in_features // self.num_heads
        return KeyValueCache(batch, self.num_heads, self.context_length, d_head, self.qkv.weight)


def _one_later(x: Tensor, cache: KeyValueCache | None) -> Tensor:
    """Every position's input where the next one stands; zeros stand before the first."""
    first = torch.zeros_like(x[:, :1])
    if cache is not None:
        first = first if cache.before is None else cache.before
        cache.before = x[:, -1:]
    return torch.cat([first, x[:, :-1]], 1)
