"""Cross-entropy, accuracy and bits per byte over a whole split."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from torchmetrics import Metric

from crystalline.contract import LanguageModel
from crystalline.eval_mode import evaluating
from crystalline.layers.cross_entropy import IGNORED, CrossEntropy


class SplitScore(NamedTuple):
    """What is known of a split; means are NaN without a target."""

    nats: float
    """Per target."""
    accuracy: float
    """Share of targets that have the best score."""
    targets: int

    def figures(self, bytes_scored: int | None) -> dict[str, float | None]:
        """Loss, bits per byte, perplexity and accuracy; no bits per byte where bytes are None."""
        return {
            "loss": self.nats,
            "bpb": bits_per_byte(self.nats, bytes_scored and bytes_scored / self.targets),
            "perplexity": math.exp(min(self.nats, 80.0)),
            "accuracy": self.accuracy,
        }


class TokenLoss(Metric):
    """Means over targets, every target counted once; sums are exact over batches and ranks.

    Targets of -100 are ignored. Nats are summed in float64.
    """

    full_state_update = False
    nats: Tensor
    correct: Tensor
    targets: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("nats", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("correct", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("targets", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, found: CrossEntropy, targets: Int[Tensor, "batch pos"]) -> None:
        self.nats += found.nats.double().sum()
        self.correct += found.correct.sum()
        self.targets += (targets != IGNORED).sum()

    def compute(self) -> SplitScore:
        """Over all ranks."""
        count = int(self.targets)
        return SplitScore(
            float(self.nats / self.targets), float(self.correct / self.targets), count
        )


def mean_nats(model: LanguageModel, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Nats a target, on this process alone, where the model is.

    Args:
        model: Its modes are the same afterwards.
        batches: Tokens and targets (-100: not scored), int64 (batch, pos).
    """
    nats, count = 0.0, 0
    with evaluating(model):
        for tokens, targets in batches:
            nats += float(model(tokens).cross_entropy(targets).nats.double().sum())
            count += int((targets != IGNORED).sum())
    return nats / count


def bits_per_byte(nats_per_target: float, bytes_per_target: float | None) -> float | None:
    """Bits to code a byte of the scored text; None where the corpus is not text."""
    if bytes_per_target is None:
        return None
    return nats_per_target / math.log(2) / bytes_per_target
