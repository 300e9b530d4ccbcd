"""The position-wise network."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Hidden(nn.Module):
    """d_model -> d_mlp, exact GELU: the first half of an MLP."""

    def __init__(self, d_model: int, d_mlp: int, bias: bool = True) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_mlp, bias=bias)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_mlp"]:
        return F.gelu(self.up(x))


class MLP(nn.Module):
    """d_model -> d_mlp, exact GELU, d_mlp -> d_model, dropout."""

    def __init__(self, d_model: int, d_mlp: int, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_mlp, bias=bias)
        self.down = nn.Linear(d_mlp, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return self.dropout(self.down(F.gelu(self.up(x))))
