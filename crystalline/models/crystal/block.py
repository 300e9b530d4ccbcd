"""A block: attention perhaps, then fields (or an MLP in their place, or nothing), then an MLP."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.contract import Codes, Edits
from crystalline.layers.attention import KeyValueCache
from crystalline.layers.mlp import MLP
from crystalline.layers.parts import Parts
from crystalline.models.crystal.attention import FrontAttention
from crystalline.models.crystal.field import NeuronField


class FieldHeads(nn.Module):
    """Several fields, each of which reads and writes its share of the coordinates."""

    def __init__(self, heads: list[NeuronField]) -> None:
        super().__init__()
        self.heads: Parts[NeuronField] = Parts(heads)


class Block(nn.Module):
    """x + attention(norm x), then x + field(norm x), then x + MLP(norm x).

    Args:
        d_model: Width.
        d_mlp: Hidden width of the MLP.
        attention: None: positions do not see each other.
        memory: A field, several, an MLP in their place, or None.
        dropout: On what field and MLP write.
    """

    rate: Tensor
    opened: Tensor
    since: Tensor

    def __init__(
        self,
        d_model: int,
        d_mlp: int,
        attention: FrontAttention | None,
        memory: NeuronField | FieldHeads | MLP | None,
        dropout: float,
    ) -> None:
        super().__init__()
        if attention is not None:
            self.attention_norm = nn.LayerNorm(d_model)
        self.attention = attention
        if memory is not None:
            self.field_norm = nn.LayerNorm(d_model)
        self.field = memory
        self.mlp_norm = nn.LayerNorm(d_model)
        self.mlp = MLP(d_model, d_mlp, dropout)
        self.dropout = nn.Dropout(dropout)
        # Of a stack that is built up in training: whether the block is there, learns, since when.
        self.register_buffer("opened", torch.ones((), dtype=torch.bool))
        self.register_buffer("rate", torch.ones(()))
        self.register_buffer("since", torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        edits: Edits,
        positions: Int[Tensor, " pos"],
        codes: bool,
        cache: KeyValueCache | None = None,
    ) -> tuple[Float[Tensor, "batch pos d_model"], dict[str, Codes]]:
        """The stream after the block, and the codes of its sites; names are within the block."""
        if self.attention is not None:
            x = x + self.attention(self.attention_norm(x), cache)
        found: dict[str, Codes] = {}
        if self.field is not None:
            normed = self.field_norm(x)
            if isinstance(self.field, MLP):
                written = self.field(normed)
            else:
                parts = []
                fields = self.fields()
                for part, (site, field) in zip(
                    normed.chunk(len(fields), -1), fields.items(), strict=True
                ):
                    y, chosen = field(part, edits.get(site), positions, codes)
                    parts.append(y)
                    if chosen is not None and codes:
                        found[site] = chosen
                written = self.dropout(torch.cat(parts, -1))
            x = x + written
        return x + self.mlp(self.mlp_norm(x)), found

    def fields(self) -> dict[str, NeuronField]:
        """Its fields by their names within the block."""
        if isinstance(self.field, FieldHeads):
            return {f"field.heads.{i}": head for i, head in enumerate(self.field.heads)}
        return {"field": self.field} if isinstance(self.field, NeuronField) else {}

    def silence(self) -> None:
        """Let the block add nothing: it can be put into a trained stack."""
        for field in self.fields().values():
            nn.init.zeros_(field.values)
        nn.init.zeros_(self.mlp.down.weight)
        nn.init.zeros_(self.mlp.down.bias)  # type: ignore[arg-type]
