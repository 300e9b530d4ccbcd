"""Fusing neighbouring vectors two by two, between the stages of a pyramid."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ResidualTokenFusionBlock(nn.Module):
    """norm(GELU(norm(conv(x)) + pool(x))): convolution and mean over pairs, both of stride 2.

    Pairs are anchored at the first position: vector j covers 2j and 2j + 1. A last vector without
    a partner waits for it (it has no output), so a prefix fuses to a prefix.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(d_model, d_model, kernel_size=2, stride=2)
        self.conv_norm = nn.LayerNorm(d_model)
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch half d_model"]:
        if x.shape[1] < 2:
            return x[:, :0]
        fused = self.conv_norm(self.conv(x.mT).mT)
        pooled = F.avg_pool1d(x.mT, kernel_size=2).mT
        return self.norm(F.gelu(fused + pooled))
