"""The block that every part is built from, and stacks of it."""

from __future__ import annotations

import math

from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.layers.attention_form import AttentionForm
from crystalline.layers.initialisation import init_weights
from crystalline.layers.masks import Mask
from crystalline.layers.mlp import MLP
from crystalline.layers.parts import Parts
from crystalline.layers.position_cache import PositionCache


class Block(nn.Module):
    """x + attention(norm x); with a memory, x + attention(norm x, memory); x + MLP(norm x)."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        length: int,
        attention: AttentionForm,
        dropout: float,
        *,
        cross: bool = False,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(d_model, bias=False)
        self.attention = attention.build(d_model, num_heads, length)
        self.cross_norm = nn.LayerNorm(d_model, bias=False) if cross else None
        self.cross = attention.build(d_model, num_heads, length, cross=True) if cross else None
        self.mlp_norm = nn.LayerNorm(d_model, bias=False)
        self.mlp = MLP(d_model, 4 * d_model, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        mask: Mask,
        positions: Int[Tensor, "batch pos"] | None = None,
        cache: PositionCache | None = None,
        memory: Float[Tensor, "batch row d_model"] | None = None,
        memory_mask: Mask | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        read = self.attention(self.attention_norm(x), mask, positions=positions, cache=cache)
        x = x + self.dropout(read)
        if self.cross is not None and self.cross_norm is not None and memory_mask is not None:
            x = x + self.dropout(self.cross(self.cross_norm(x), memory_mask, memory))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))

    def written(self) -> list[nn.Linear]:
        """The maps that write to the residual stream."""
        crossing = [] if self.cross is None else [self.cross.out]
        return [self.attention.out, *crossing, self.mlp.down]


class Stack(nn.Module):
    """Blocks, one after the other."""

    def __init__(
        self,
        num_layers: int,
        d_model: int,
        num_heads: int,
        length: int,
        attention: AttentionForm,
        dropout: float,
        *,
        cross: bool = False,
    ) -> None:
        super().__init__()
        self.length = length
        self.blocks: Parts[Block] = Parts(
            Block(d_model, num_heads, length, attention, dropout, cross=cross)
            for _ in range(num_layers)
        )

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        mask: Mask,
        positions: Int[Tensor, "batch pos"] | None = None,
        caches: list[PositionCache] | None = None,
        memory: Float[Tensor, "batch row d_model"] | None = None,
        memory_mask: Mask | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        for index, block in enumerate(self.blocks):
            cache = None if caches is None else caches[index]
            x = block(x, mask, positions, cache, memory, memory_mask)
        return x

    def init_caches(self, batch: int) -> list[PositionCache]:
        return [PositionCache(batch, self.length) for _ in self.blocks]


def init_stacks(model: nn.Module) -> None:
    """Initial weights of stacks and of all around them, by the depth of the deepest stack."""
    stacks = [part for part in model.modules() if isinstance(part, Stack)]
    written = [map_ for stack in stacks for block in stack.blocks for map_ in block.written()]
    deepest = max(len(stack.blocks) for stack in stacks)
    init_weights(model, residual=written, residual_std=0.02 / math.sqrt(2 * deepest))
