"""Inputs kept around 0 at unit scale, so that codes do not chase a moving cloud."""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Standardiser(nn.Module):
    """x -> (x - mean) / scale and back, with the mean and the root mean square of past inputs.

    A young network's outputs have a common part that wanders and a scale that grows, both faster
    than codes follow; codes that are left behind die. Batch normalisation in front of a quantizer
    helps for this reason (Lancucki et al. 2020, arXiv:2005.08520). Here statistics of past rounds
    replace those of the batch, so outputs stay causal and independent of accumulation and of the
    number of processes. One scale serves all channels and can be undone, so lengths are coded too
    and nothing is lost but the rounding. No gradient passes the statistics.

    Args:
        width: Channels.
        decay: Share of the old statistics kept in each round.
    """

    mean: Float[Tensor, " width"]
    variance: Float[Tensor, ""]
    """Mean over channels."""
    rounds: Float[Tensor, ""]
    """Rounds that the statistics hold; the first one counts in full."""
    round_sums: Float[Tensor, " sums"]
    """Sum of the inputs less the old mean, of their squares, and their number."""

    def __init__(self, width: int, decay: float = 0.9) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(()))
        self.register_buffer("rounds", torch.zeros(()))
        self.register_buffer("round_sums", torch.zeros(2 * width + 1), persistent=False)

    @property
    def scale(self) -> Float[Tensor, ""]:
        return (self.variance + 1e-8).sqrt()

    def forward(self, x: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes width"]:
        """Standardised inputs; in training they are also noted for `end_round`."""
        if self.training:
            # Around the old mean: squares of what is common would drown the differences.
            points = (x.detach() - self.mean).flatten(0, -2)
            count = points.new_full((1,), len(points))
            self.round_sums += torch.cat([points.sum(0), points.square().sum(0), count])
        return (x - self.mean) / self.scale

    def restore(self, y: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes width"]:
        """The inverse of `forward`."""
        return y * self.scale + self.mean

    def end_round(self, skip: Bool[Tensor, ""]) -> None:
        """Move the statistics towards the round's; with `skip` only forget the round."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.round_sums)
        count = self.round_sums[-1]
        moved, square = (self.round_sums[:-1] / count.clamp(min=1)).chunk(2)
        mean = self.mean + moved
        variance = (square - moved.square()).clamp(min=0).mean()
        keep = skip | (count == 0)
        self.rounds += 1 - keep.float()
        weight = (1 / self.rounds.clamp(min=1)).clamp(min=1 - self.decay)
        self.mean.copy_(torch.where(keep, self.mean, self.mean.lerp(mean, weight)))
        self.variance.copy_(torch.where(keep, self.variance, self.variance.lerp(variance, weight)))
        self.round_sums.zero_()

    def init_from_data(self, x: Float[Tensor, "*axes width"]) -> None:
        """Take the statistics of `x`."""
        points = x.flatten(0, -2)
        self.rounds.fill_(1)
        self.mean.copy_(points.mean(0))
        self.variance.copy_((points - self.mean).square().mean())
