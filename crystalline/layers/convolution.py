"""Short causal convolutions: each channel sees its own last few values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crystalline.layers.kernels import taps


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


class DepthwiseConvolution(nn.Module):
    """y_t = bias + sum_{i < width} w_i * x_{t-i}, per channel.

    Zeros stand before the first position. One multiplication and addition a tap: faster than
    `F.conv1d` with as many groups as channels. On a GPU one operator, see `kernels.taps`.

    Args:
        d_model: Channels.
        width: Taps; the last one, `weight[..., -1]`, is w_0.
        std: Of the initial weights; the bias starts at zero.
    """

    def __init__(self, d_model: int, width: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(d_model, 1, width) * std)
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        recent: Float[Tensor, "batch before d_model"] | None = None,
        gates: Float[Tensor, "batch pos width"] | None = None,
        scale: Float[Tensor, "*d_model"] | None = None,
    ) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch before d_model"]]:
        """The filtered signal, and the last width - 1 inputs for a call that continues this one.

        With `gates`, position t has taps gates[t, i] weight[..., i] of its own; with `scale`, the
        signal is multiplied by it.
        """
        bias, weight = self.bias, self.weight[:, 0].T
        if scale is not None:  # of the taps, which are few, and not of the signal
            bias, weight = scale * bias, scale * weight
        bias, weight = bias.type_as(x), weight.contiguous().type_as(x)
        before = self.init_recent(len(x)).type_as(x) if recent is None else recent
        kept = before.shape[1]
        if recent is None and taps.applies(x):
            y = taps.filtered(x, weight, bias, gates)
        else:
            y = taps.filtered_plainly(torch.cat([before, x], dim=1), weight, bias, gates)
        latest = torch.cat([before, x[:, max(0, x.shape[1] - kept) :]], dim=1)
        return y, latest[:, latest.shape[1] - kept :]

    def init_recent(self, batch: int) -> Float[Tensor, "batch before d_model"]:
        channels, _, width = self.weight.shape
        return self.weight.new_zeros(batch, width - 1, channels)
