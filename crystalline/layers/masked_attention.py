"""Attention under any mask, over two backends; and its plain multi-head form."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.layers.masks import Mask
from crystalline.layers.position_cache import PositionCache, turn
from crystalline.layers.rotary import Rotary

Backend = Literal["sdpa", "flex"]


def attend(
    q: Float[Tensor, "batch head query d_key"],
    k: Float[Tensor, "batch head key d_key"],
    v: Float[Tensor, "batch head key d_value"],
    mask: Mask,
    backend: Backend = "sdpa",
) -> Float[Tensor, "batch head query d_value"]:
    """softmax(q k^T / sqrt(d_key)) v over the visible keys; 0 where a query sees none.

    "flex" runs FlexAttention on a GPU; elsewhere, and for "sdpa", the dense mask goes to
    `scaled_dot_product_attention`. On either, keys that a query does not see change no bit of what
    it reads.
    """
    if backend == "flex" and q.is_cuda:
        return _flex(q, k, v, mask)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.answerable)
    return out if mask.complete else out.masked_fill(~mask.seeing, 0.0)


def attend_plainly(
    q: Float[Tensor, "batch head query d_key"],
    k: Float[Tensor, "batch head key d_key"],
    v: Float[Tensor, "batch head key d_value"],
    mask: Mask,
) -> Float[Tensor, "batch head query d_value"]:
    """The definition of `attend`."""
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask.dense, -torch.inf)
    top = scores.amax(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    weights = (scores - top).exp()
    return weights @ v / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)


def _flex(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    from crystalline.layers.flex import compiled_flex_attention

    return compiled_flex_attention(q, k, v, mask.blocks)


class MaskedAttention(nn.Module, ABC):
    """A form of attention: how queries, keys and values are made and what becomes of the reading.

    Self-attention turns queries and keys by their positions; attention to a memory does not: its
    rows are counted otherwise than the queries.
    """

    out: nn.Linear
    """The map that writes to the residual stream."""

    @abstractmethod
    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        mask: Mask,
        memory: Float[Tensor, "batch row d_memory"] | None = None,
        positions: Int[Tensor, "batch pos"] | None = None,
        cache: PositionCache | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """What every position reads.

        Args:
            x: Queries, and without `memory` the keys.
            mask: Of all queries over all keys (those in the cache included).
            memory: Other rows to read from.
            positions: Of `x`; None for 0, 1, 2, ...
            cache: Keys and values of earlier positions; those of `x` join them. Not with `memory`.
        """


class RegularAttention(MaskedAttention):
    """Multi-head attention with rotary positions (Vaswani et al. 2017, arXiv:1706.03762).

    Args:
        d_model: Width, a multiple of `num_heads`.
        num_heads: Heads.
        length: Positions that there may be.
        backend: See `attend`.
    """

    def __init__(self, d_model: int, num_heads: int, length: int, backend: Backend) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.backend: Backend = backend
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.key_value = nn.Linear(d_model, 2 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.rotary = Rotary(d_model // num_heads, length)

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        mask: Mask,
        memory: Float[Tensor, "batch row d_memory"] | None = None,
        positions: Int[Tensor, "batch pos"] | None = None,
        cache: PositionCache | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        heads = self.num_heads
        q = rearrange(self.query(x), "batch pos (head d) -> batch head pos d", head=heads)
        k, v = rearrange(
            self.key_value(x if memory is None else memory),
            "batch key (two head d) -> two batch head key d",
            two=2,
            head=heads,
        )
        if memory is None:
            q, k = turned(q, self.rotary, positions), turned(k, self.rotary, positions)
        if cache is not None:
            assert positions is not None
            k = cache.write("keys", positions, k.transpose(1, 2)).transpose(1, 2)
            v = cache.write("values", positions, v.transpose(1, 2)).transpose(1, 2)
        read = attend(q, k, v, mask, self.backend)
        return self.out(rearrange(read, "batch head pos d -> batch pos (head d)"))


def turned(
    x: Float[Tensor, "batch head pos d_head"],
    rotary: Rotary,
    positions: Int[Tensor, "batch pos"] | None,
) -> Float[Tensor, "batch head pos d_head"]:
    """`x` turned by its positions."""
    return rotary(x) if positions is None else turn(x, positions, rotary.cos, rotary.sin)
