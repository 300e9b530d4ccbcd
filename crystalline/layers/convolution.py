"""A short causal convolution: each channel sees its own last few values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class CausalConvolution(nn.Module):
    """y_t = x_t + sum_{i < width} w_i * x_{t-i}, per channel; starts as the identity.

    Zeros stand before the first position.
    """

    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(d_model, 1, width))

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        recent: Float[Tensor, "batch before d_model"] | None = None,
    ) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch before d_model"]]:
        """The filtered signal, and the last width - 1 inputs for a call that continues this one."""
        before = self.init_recent(len(x)).type_as(x) if recent is None else recent
        padded = torch.cat([before, x], dim=1)
        y = x + F.conv1d(padded.mT, self.weight, groups=len(self.weight)).mT
        return y, padded[:, padded.shape[1] - before.shape[1] :]

    def init_recent(self, batch: int) -> Float[Tensor, "batch before d_model"]:
        channels, _, width = self.weight.shape
        return self.weight.new_zeros(batch, width - 1, channels)
