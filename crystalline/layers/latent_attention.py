"""Multi-head latent attention (DeepSeek-AI 2024, arXiv:2405.04434).

Keys and values of all heads come from one narrow vector a position, and only that is kept for
generation.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.layers.masked_attention import Backend, MaskedAttention, attend, turned
from crystalline.layers.masks import Mask
from crystalline.layers.position_cache import PositionCache
from crystalline.layers.rotary import Rotary


class LatentAttention(MaskedAttention):
    """Heads that share a latent.

    c_j = norm(W_c x_j);  v_j = U_v c_j
    k_j = [U_k c_j, R_j W_r x_j];  q_t = [W_q x_t, R_t W_p x_t]

    A head's score is q_t . k_j / sqrt(d_head + d_rotary), where R_t turns the last d_rotary
    channels by position; those of the key are shared by the heads. Attention to a memory has no
    such channels. The cache holds d_latent + d_rotary numbers a position.

    Args:
        d_model: Width, a multiple of `num_heads`.
        num_heads: Heads.
        length: Positions that there may be.
        backend: See `attend`.
        d_latent: Width of c.
        d_rotary: Turned channels, even.
        d_query: Width of a latent that queries come from; None: from x itself.
        cross: Whether it reads a memory.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        length: int,
        backend: Backend,
        *,
        d_latent: int,
        d_rotary: int,
        d_query: int | None = None,
        cross: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.backend: Backend = backend
        self.d_rotary = 0 if cross else d_rotary
        asked = d_model + num_heads * self.d_rotary
        self.query = (
            nn.Linear(d_model, asked, bias=False)
            if d_query is None
            else nn.Sequential(
                nn.Linear(d_model, d_query, bias=False),
                nn.LayerNorm(d_query, bias=False),
                nn.Linear(d_query, asked, bias=False),
            )
        )
        self.compress = nn.Linear(d_model, d_latent, bias=False)
        self.latent_norm = nn.LayerNorm(d_latent, bias=False)
        self.key_value = nn.Linear(d_latent, 2 * d_model, bias=False)
        self.turned_key = None if cross else nn.Linear(d_model, d_rotary, bias=False)
        self.rotary = None if cross else Rotary(d_rotary, length)
        self.out = nn.Linear(d_model, d_model, bias=False)

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
        source = x if memory is None else memory
        latent = self.latent_norm(self.compress(source))
        shared = None
        if self.rotary is not None and self.turned_key is not None:
            content, placed = q.split([q.shape[-1] - self.d_rotary, self.d_rotary], dim=-1)
            q = torch.cat([content, turned(placed, self.rotary, positions)], dim=-1)
            shared = turned(self.turned_key(x)[:, None], self.rotary, positions)[:, 0]
        if cache is not None:
            assert positions is not None
            latent = cache.write("latent", positions, latent)
            if shared is not None:
                shared = cache.write("turned", positions, shared)
        k, v = rearrange(
            self.key_value(latent),
            "batch key (two head d) -> two batch head key d",
            two=2,
            head=heads,
        )
        if shared is not None:
            k = torch.cat([k, shared[:, None].expand(-1, heads, -1, -1)], dim=-1)
        read = attend(q, k, v, mask, self.backend)
        return self.out(rearrange(read, "batch head pos d -> batch pos (head d)"))
