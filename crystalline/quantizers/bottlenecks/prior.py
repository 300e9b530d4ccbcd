"""A choice that knows how often codes are used: entropy-constrained quantization."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

RAREST = 1e-2
"""Of an even share: rarer codes are held back no further, or none could return."""


class UsagePrior(nn.Module):
    """Adds `weight` * ln(K u_j) to the similarity of code j, u_j its share of recent choices.

    Choosing by similarity alone, codes that lie close share what one of them could carry. Here the
    more used one wins until the other is worth the ln(1 / u_j) nats that naming it takes, so
    neighbours merge and the rest of the book holds what is rare (Chou, Lookabaugh and Gray 1989,
    entropy-constrained vector quantization).

    Args:
        codebook_size: K.
        weight: Similarity that a nat of code length costs, not negative.
        decay: Share of the old usage that a round keeps.

    Raises:
        ValueError: If `weight` is negative.
    """

    usage: Float[Tensor, " codebook_size"]

    def __init__(self, codebook_size: int, weight: float, decay: float = 0.99) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"prior_weight must not be negative, got {weight}")
        self.weight = weight
        self.decay = decay
        self.register_buffer("usage", torch.full((codebook_size,), 1 / codebook_size))

    def bias(self) -> Float[Tensor, " codebook_size"]:
        """What is added to similarities; no gradient."""
        return self.weight * (len(self.usage) * self.usage).clamp(min=RAREST).log()

    def end_round(self, counts: Int[Tensor, " codebook_size"]) -> None:
        """Follow the round's choices; a round without any changes nothing."""
        total = counts.sum()
        share = torch.where(total > 0, counts / total.clamp(min=1), self.usage)
        self.usage.lerp_(share, 1 - self.decay)

    def restart(self, which: Bool[Tensor, " codebook_size"]) -> None:
        """Codes at a new place count as used evenly."""
        self.usage.masked_fill_(which, 1 / len(self.usage))
