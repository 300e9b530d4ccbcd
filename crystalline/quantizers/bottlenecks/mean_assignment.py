"""How a book is used on the whole, where a batch is too small to tell."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

_ENOUGH = 10
"""Choices for each code from which the batch's own mean will do (spec section 5)."""


class MeanAssignment(nn.Module):
    """The mean of p over about the latest 10 K / k positions, K codes at k a position.

    N positions hold no more than N k codes, so the mean of sharp assignments over a small batch has
    a lower entropy than the usage that it is meant to tell. A batch of N k >= 10 K stands for
    itself; below, the means of rounds before it keep the share 1 - N k / (10 K), which is weighted
    so that the start at zero leaves no trace (as in Kingma and Ba 2015, arXiv:1412.6980).

    Args:
        codebook_size: K.
        num_codes_k: k.
    """

    total: Float[Tensor, " codebook_size"]
    """Weighted sum of the means of earlier rounds."""
    weight: Float[Tensor, ""]
    """Sum of its weights, in [0, 1]."""
    round_total: Float[Tensor, " codebook_size"]
    round_positions: Float[Tensor, ""]

    def __init__(self, codebook_size: int, num_codes_k: int) -> None:
        super().__init__()
        self.enough_positions = _ENOUGH * codebook_size / num_codes_k
        self.register_buffer("total", torch.zeros(codebook_size))
        self.register_buffer("weight", torch.zeros(()))
        self.register_buffer("round_total", torch.zeros(codebook_size), persistent=False)
        self.register_buffer("round_positions", torch.zeros(()), persistent=False)

    def forward(
        self, mean: Float[Tensor, " codebook_size"], positions: int
    ) -> Float[Tensor, " codebook_size"]:
        """The estimate in training; its gradient is that of `mean`, whole.

        So an entropy of it has the slope sum of -(ln estimate + 1) d mean: were the estimate the
        true usage, the slope would be right in the mean over batches.

        Args:
            mean: p averaged over this pass, of all processes.
            positions: That it is averaged over.
        """
        fixed = mean.detach()
        self.round_total += positions * fixed
        self.round_positions += positions
        kept = max(0.0, 1 - positions / self.enough_positions)
        estimate = (kept * self.total + (1 - kept) * fixed) / (kept * self.weight + (1 - kept))
        return mean + (estimate - fixed)

    @torch.no_grad()
    def end_round(self, skip: Bool[Tensor, ""]) -> None:
        """Take in the round, however many passes it had. With `skip` only forget it.

        Passes bring the mean over all processes, so all of them hold the same.
        """
        skip = skip | (self.round_positions == 0)
        kept = (1 - self.round_positions / self.enough_positions).clamp(min=0)
        mean = self.round_total / self.round_positions.clamp(min=1)
        total = kept * self.total + (1 - kept) * mean
        weight = kept * self.weight + (1 - kept)
        self.total.copy_(torch.where(skip, self.total, total))
        self.weight.copy_(torch.where(skip, self.weight, weight))
        self.round_total.zero_()
        self.round_positions.zero_()

    def restart(self) -> None:
        """Forget all: the codes are others."""
        self.total.zero_()
        self.weight.zero_()
