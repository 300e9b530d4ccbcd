"""Inputs brought to mean 0 and unit covariance by what they were in past rounds."""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Whitener(nn.Module):
    """x -> L^-1 (x - mean), with L L^T the covariance of past inputs; for a few channels.

    As `Standardiser`, for channels that a common cause may move together: after it they share
    nothing that a covariance sees. No gradient passes the statistics.

    Args:
        width: Channels.
        decay: Share of the old statistics kept in each round.
    """

    mean: Float[Tensor, " width"]
    covariance: Float[Tensor, "width width"]
    inverse: Float[Tensor, "width width"]
    """L^-1."""
    rounds: Float[Tensor, ""]
    """Rounds that the statistics hold; the first one counts in full."""
    round_sums: Float[Tensor, "width_and_one width_and_one"]
    """Sum of the outer products of (x - old mean, 1)."""

    def __init__(self, width: int, decay: float = 0.9) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("covariance", torch.eye(width))
        self.register_buffer("inverse", torch.eye(width))
        self.register_buffer("rounds", torch.zeros(()))
        sums = torch.zeros(width + 1, width + 1)
        self.register_buffer("round_sums", sums, persistent=False)

    def forward(self, x: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes width"]:
        """Whitened inputs; in training they are also noted for `end_round`."""
        moved = x - self.mean
        if self.training:
            points = moved.detach().flatten(0, -2)
            points = torch.cat([points, torch.ones_like(points[:, :1])], 1)
            self.round_sums += points.T @ points
        return moved @ self.inverse.T

    def end_round(self, skip: Bool[Tensor, ""]) -> None:
        """Move the statistics towards the round's; with `skip` only forget the round."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.round_sums)
        count = self.round_sums[-1, -1]
        keep = skip | (count == 0)
        sums = torch.where(keep, 0, self.round_sums) / count.clamp(min=1)
        moved, square = sums[:-1, -1], sums[:-1, :-1]
        self.rounds += 1 - keep.to(self.rounds.dtype)
        weight = (1 / self.rounds.clamp(min=1)).clamp(min=1 - self.decay)
        # Of a mixture: the covariances' mean, and the spread of the two means.
        apart = weight * (1 - weight) * torch.outer(moved, moved)
        within = square - torch.outer(moved, moved)
        covariance = self.covariance.lerp(within, weight) + apart
        self.covariance.copy_(torch.where(keep, self.covariance, covariance))
        self.mean.copy_(torch.where(keep, self.mean, self.mean + weight * moved))
        self.inverse.copy_(_inverse_factor(self.covariance))
        self.round_sums.zero_()


def _inverse_factor(covariance: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """L^-1 of a covariance, kept regular; in fp64, without waiting for the device."""
    matrix = covariance.double()
    eye = torch.eye(len(matrix), dtype=torch.float64, device=matrix.device)
    floor = 1e-6 * matrix.diagonal().mean() + 1e-12
    factor = torch.linalg.cholesky_ex(matrix + floor * eye).L
    inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
    return inverse.to(covariance.dtype)
