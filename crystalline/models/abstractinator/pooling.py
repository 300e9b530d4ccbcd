"""Many vectors become one: what learned queries read of a segment."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.layers import masks
from crystalline.layers.masked_attention import Backend, attend
from crystalline.layers.masks import Mask


class LearnedQueryAttention(nn.Module):
    """W_o norm([heads]) of softmax(q k^T / sqrt(d_head)) v over the positions of each segment.

    The queries are the model's, the same for every segment, and near 0 at the start: then a segment
    is pooled to the mean of its values. There are no positions here: order is known to the encoder.
    Several queries are read side by side and mapped to one vector.

    Args:
        d_model: Width, a multiple of `num_heads`.
        num_heads: Heads.
        num_queries: Queries a segment.
        backend: See `attend`.
    """

    def __init__(self, d_model: int, num_heads: int, num_queries: int, backend: Backend) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.backend: Backend = backend
        self.queries = nn.Parameter(0.02 * torch.randn(num_queries, d_model))
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.norm = nn.LayerNorm(d_model, bias=False)
        self.key_value = nn.Linear(d_model, 2 * d_model, bias=False)
        self.read_norm = nn.LayerNorm(d_model, bias=False)
        self.out = nn.Linear(num_queries * d_model, d_model, bias=False)

    def forward(
        self,
        hidden: Float[Tensor, "batch pos d_model"],
        segment: Int[Tensor, "batch pos"],
        wanted: Int[Tensor, "batch slot"],
    ) -> Float[Tensor, "batch slot d_model"]:
        """The vectors of segments `wanted`; 0 for those that have no position.

        Args:
            hidden: What the encoder says of each position.
            segment: Each position's segment.
            wanted: Numbers of segments.
        """
        heads, count = self.num_heads, len(self.queries)
        batch, slots = wanted.shape
        q = self.query(self.queries).repeat(slots, 1).expand(batch, -1, -1)
        q = rearrange(q, "batch query (head d) -> batch head query d", head=heads)
        k, v = rearrange(
            self.key_value(self.norm(hidden)),
            "batch key (two head d) -> two batch head key d",
            two=2,
            head=heads,
        )
        labels = wanted.repeat_interleave(count, dim=1)
        mask = Mask(
            masks.same(labels, segment),
            batch,
            slots * count,
            segment.shape[1],
            hidden.device,
            complete=False,
        )
        read = rearrange(attend(q, k, v, mask, self.backend), "batch head q d -> batch q (head d)")
        read = self.read_norm(read) * mask.seeing[:, 0]
        return self.out(rearrange(read, "batch (slot q) d -> batch slot (q d)", q=count))
