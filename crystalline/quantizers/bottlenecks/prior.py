"""A choice that knows how often codes are used: entropy-constrained quantization."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from crystalline.ramp import ramp

RAREST = 1e-2
"""Of an even share: rarer codes are held back no further, or none could return."""
WHOLE = 0.9
"""Share of training after which a prior that grows is whole: the rest settles."""


@dataclass(frozen=True)
class Prior:
    """Options of a `UsagePrior`.

    Raises:
        ValueError: If `weight` is negative, `start` outside [0, 0.9) or `share` outside (0, 1].
    """

    weight: float
    """Similarity that a nat of code length costs."""
    start: float = 0.0
    """Share of training from which on it grows, to be whole at 0.9; 0: whole at once."""
    share: float = 1.0
    """Of the choices: a code that has it is favoured over none that has more."""

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"prior_weight must not be negative, got {self.weight}")
        if not 0 <= self.start < WHOLE:
            raise ValueError(f"prior_start must lie in [0, {WHOLE}), got {self.start}")
        if not 0 < self.share <= 1:
            raise ValueError(f"prior_share must lie in (0, 1], got {self.share}")


class UsagePrior(nn.Module):
    """Adds `weight` * ln(K min(u_j, `share`)) to the similarity of code j, u_j its recent share.

    Choosing by similarity alone, codes that lie close share what one of them could carry. Here the
    more used one wins until the other is worth the ln(1 / u_j) nats that naming it takes, so
    neighbours merge and the rest of the book holds what is rare (Chou, Lookabaugh and Gray 1989,
    entropy-constrained vector quantization). A prior that grows late merges codes that already mean
    the same, where one that is whole at once merges what has not been told apart yet. With a share
    below 1 fragments merge until they have it, and codes that have it are left apart: without that
    the most used ones of a book take over neighbours that mean something else.

    Args:
        codebook_size: K.
        prior: The weight, and when it grows.
        decay: Share of the old usage that a round keeps.
    """

    usage: Float[Tensor, " codebook_size"]
    strength: Float[Tensor, ""]
    """Share of the weight that counts by now."""

    def __init__(self, codebook_size: int, prior: Prior, decay: float = 0.99) -> None:
        super().__init__()
        self.weight = prior.weight
        self.start = prior.start
        self.share = prior.share
        self.decay = decay
        self.register_buffer("strength", torch.ones(()))
        self.register_buffer("usage", torch.full((codebook_size,), 1 / codebook_size))

    def bias(self) -> Float[Tensor, " codebook_size"]:
        """What is added to similarities; no gradient."""
        weight = self.weight * self.strength
        enough = self.usage.clamp(max=self.share)
        return weight * (len(self.usage) * enough).clamp(min=RAREST).log()

    def begin_round(self, progress: float) -> None:
        """Grow to what counts when a share `progress` of training is done."""
        if self.start:
            self.strength.fill_(ramp(progress, self.start, WHOLE))

    def end_round(self, counts: Int[Tensor, " codebook_size"]) -> None:
        """Follow the round's choices; a round without any changes nothing."""
        total = counts.sum()
        share = torch.where(total > 0, counts / total.clamp(min=1), self.usage)
        self.usage.lerp_(share, 1 - self.decay)

    def restart(self, which: Bool[Tensor, " codebook_size"]) -> None:
        """Codes at a new place count as used evenly."""
        self.usage.masked_fill_(which, 1 / len(self.usage))
