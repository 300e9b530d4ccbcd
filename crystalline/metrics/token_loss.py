"""Cross-entropy, bits per byte and perplexity over a whole split."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric


class TokenLoss(Metric):
    """Mean nats per target, every target counted once; sums are exact over batches and ranks.

    Targets of -100 are ignored. Sums are kept in float64.
    """

    full_state_update = False
    nats: Tensor
    targets: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("nats", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("targets", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self, logits: Float[Tensor, "batch pos vocab"], targets: Int[Tensor, "batch pos"]
    ) -> None:
        nats = F.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100, reduction="sum"
        )
        self.nats += nats.double()
        self.targets += (targets != -100).sum()

    def compute(self) -> tuple[Tensor, Tensor]:
        """Nats per target (NaN before the first one) and the number of targets, over all ranks."""
        return self.nats / self.targets, self.targets


def bits_per_byte(nats_per_target: float, bytes_per_target: float | None) -> float | None:
    """Bits to code a byte of the scored text; None where the corpus is not text."""
    if bytes_per_target is None:
        return None
    return nats_per_target / math.log(2) / bytes_per_target
