"""Noise in place of codes: as much is lost, and nothing is discrete."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.contract import Edit
from crystalline.quantizers.bottlenecks.base import BottleneckOutput, unit_rms


class GaussianNoise(nn.Module):
    """out = n + distortion * e in training, n in evaluation; n = x / rms(x), e ~ N(0, 1).

    The control for a bottleneck of the same error: what does the loss of information do by itself?
    It has no codes, so it is no site.

    Args:
        distortion: Root mean square error relative to n, above 0. That of a bottleneck whose groups
            are d wide is sqrt(loss/codebook / d).

    Raises:
        ValueError: If `distortion` is missing or not above 0.
    """

    def __init__(self, distortion: float | None) -> None:
        super().__init__()
        if distortion is None or not distortion > 0:
            raise ValueError(f"mode=noise needs selection.distortion above 0, got {distortion}")
        self.distortion = distortion

    def forward(
        self,
        x: Float[Tensor, "batch pos d_group"],
        temperature: Float[Tensor, "#batch #pos"],
        *,
        override: Edit | None = None,
        positions: Int[Tensor, " pos"] | None = None,
        entropy: bool = False,
    ) -> BottleneckOutput:
        """Called as a bottleneck is; there is nothing to override."""
        n = unit_rms(x)
        out = n + self.distortion * torch.randn_like(n) if self.training else n
        return BottleneckOutput(out.to(x.dtype), n, None, {})
