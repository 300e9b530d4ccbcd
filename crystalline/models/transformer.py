"""The baseline of every table: a pre-norm transformer with rotary positions and a tied head.

What it hides is what the other families show: nothing inside it is discrete.
"""

from __future__ import annotations

import math
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.contract import Edits, LanguageModel, ModelOutput
from crystalline.layers.attention import CausalSelfAttention, KeyValueCache
from crystalline.layers.initialisation import init_weights
from crystalline.layers.mlp import MLP
from crystalline.layers.parts import Parts


class TransformerBlock(nn.Module):
    """x + attention(norm x), then x + MLP(norm x)."""

    def __init__(
        self, d_model: int, num_heads: int, d_mlp: int, context_length: int, dropout: float
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(d_model, bias=False)
        self.attention = CausalSelfAttention(d_model, num_heads, context_length, dropout)
        self.mlp_norm = nn.LayerNorm(d_model, bias=False)
        self.mlp = MLP(d_model, d_mlp, dropout, bias=False)

    def forward(
        self, x: Float[Tensor, "batch pos d_model"], cache: KeyValueCache | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        x = x + self.attention(self.attention_norm(x), cache)
        return x + self.mlp(self.mlp_norm(x))


class Transformer(LanguageModel):
    """A decoder-only transformer.

    Args:
        vocab_size: Number of token ids.
        context_length: Longest sequence in tokens.
        d_model: Width.
        num_layers: Blocks.
        num_heads: Heads a block.
        d_mlp: Width of the MLP's hidden layer; 4 d_model if None.
        dropout: On the embedding and on what attention and MLP write.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        d_model: int,
        num_layers: int,
        num_heads: int,
        d_mlp: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(vocab_size, context_length)
        d_mlp = d_mlp or 4 * d_model
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.dropout = nn.Dropout(dropout)
        self.blocks: Parts[TransformerBlock] = Parts(
            TransformerBlock(d_model, num_heads, d_mlp, context_length, dropout)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model, bias=False)
        written = [m for b in self.blocks for m in (b.attention.out, b.mlp.down)]
        init_weights(self, residual=written, residual_std=0.02 / math.sqrt(2 * num_layers))

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        codes: bool = False,
        edits: Edits | None = None,
        cache: list[KeyValueCache] | None = None,
    ) -> ModelOutput:
        x: Float[Tensor, "batch pos d_model"] = self.dropout(self.embedding(tokens))
        for index, block in enumerate(self.blocks):
            x = block(x, None if cache is None else cache[index])
        return ModelOutput(self.norm(x), head=self.embedding.weight)

    def alike_parts(self) -> list[nn.Module]:
        return list(self.blocks)

    def init_cache(self, batch_size: int) -> Any:
        return [block.attention.init_cache(batch_size) for block in self.blocks]
