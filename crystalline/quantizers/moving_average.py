"""Codes as running means of the inputs that chose them (van den Oord et al. 2017, appendix A.1)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn


class MovingAverage(nn.Module):
    """Decayed counts N and sums M of every code's inputs; the code is M / N.

    N <- decay N + (1 - decay) n and M <- decay M + (1 - decay) sum of inputs, with Laplace
    smoothing of N (Razavi et al. 2019). A code that nothing chose in a round keeps its place.

    Args:
        shape: (levels, codebook_size).
        codebook_dim: Width of a code.
        decay: In [0, 1); 0 puts a chosen code on the mean of the round.

    Raises:
        ValueError: If `decay` lies outside [0, 1).
    """

    ema_counts: Float[Tensor, "levels codebook_size"]
    ema_sums: Float[Tensor, "levels codebook_size codebook_dim"]
    round_sums: Float[Tensor, "levels codebook_size codebook_dim"]

    epsilon = 1e-5

    def __init__(self, shape: tuple[int, int], codebook_dim: int, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {decay}")
        self.decay = decay
        self.register_buffer("ema_counts", torch.zeros(shape))
        self.register_buffer("ema_sums", torch.zeros(*shape, codebook_dim))
        self.register_buffer("round_sums", torch.zeros(*shape, codebook_dim), persistent=False)

    def observe(self, sums: Float[Tensor, "levels codebook_size codebook_dim"]) -> None:
        """Add a training pass to the round's sums of inputs by code."""
        self.round_sums += sums

    def end_round(self, codes: Tensor, round_counts: Tensor, skip: Bool[Tensor, ""]) -> None:
        """Move `codes` in place; counts are already summed over ranks, sums are summed here."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.round_sums)
        keep = torch.where(skip, 1.0, self.decay)
        counts = self.ema_counts * keep + round_counts * (1 - keep)
        # 0 * NaN is NaN: a skipped round's sums must not be multiplied but left out.
        fresh = torch.where(skip, torch.zeros_like(self.round_sums), self.round_sums)
        sums = self.ema_sums * keep + fresh * (1 - keep)
        total = counts.sum(-1, keepdim=True)
        smooth = (counts + self.epsilon) / (total + counts.shape[-1] * self.epsilon) * total
        moved = (round_counts > 0) & ~skip
        means = sums / smooth.clamp(min=1e-12)[..., None]
        codes.copy_(torch.where(moved[..., None], means, codes))
        self.ema_counts.copy_(counts)
        self.ema_sums.copy_(sums)
        self.round_sums.zero_()

    def restart(
        self,
        level: int,
        which: Bool[Tensor, " codebook_size"],
        values: Float[Tensor, "codebook_size codebook_dim"],
    ) -> None:
        """Give the codes `which` the weight of an average code at their new place `values`."""
        counts, sums = self.ema_counts[level], self.ema_sums[level]
        weight = counts.mean().clamp(min=1.0)
        counts.copy_(torch.where(which, weight, counts))
        sums.copy_(torch.where(which[:, None], values * weight, sums))
