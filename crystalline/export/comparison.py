"""What lower precision costs: every model beside the one in fp32, on the same text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crystalline.contract import LanguageModel
from crystalline.layers.cross_entropy import IGNORED

_LOGITS = 2**24
"""Logits of a model at a time, which bounds the memory."""


@dataclass
class Scores:
    """Sums over targets, in float64."""

    nats: float = 0.0
    agreements: float = 0.0
    divergence: float = 0.0
    targets: int = 0

    def add(
        self,
        logits: Float[Tensor, "targets vocab"],
        reference: Float[Tensor, "targets vocab"],
        wanted: Int[Tensor, " targets"],
    ) -> None:
        """Count targets, given the reference's logarithms of probabilities."""
        found = logits.float().log_softmax(-1)
        self.nats -= float(found.gather(-1, wanted[:, None]).double().sum())
        self.agreements += int((found.argmax(-1) == reference.argmax(-1)).sum())
        self.divergence += float((reference.exp() * (reference - found)).double().sum())
        self.targets += len(wanted)

    def figures(self) -> dict[str, float]:
        """Loss and KL(reference || model) in nats a target, share of equal best tokens, targets."""
        return {
            "targets": self.targets,
            "loss": self.nats / self.targets,
            "agreement": self.agreements / self.targets,
            "kl": self.divergence / self.targets,
        }


def compare(
    reference: LanguageModel,
    others: Mapping[str, LanguageModel],
    batches: Iterable[tuple[Tensor, Tensor]],
) -> dict[str, dict[str, float]]:
    """Figures of each model; everything runs where the models are, in fp32.

    Args:
        reference: The model in fp32, in evaluation mode like all others.
        others: By name, on the same device.
        batches: Tokens and targets, int64 (batch, pos); targets of -100 are ignored.
    """
    scores = {name: Scores() for name in others}
    device = next(reference.parameters()).device
    with torch.no_grad():
        for all_tokens, all_targets in batches:
            rows = max(1, _LOGITS // (all_tokens.shape[1] * reference.vocab_size))
            pairs = zip(all_tokens.split(rows), all_targets.split(rows), strict=True)
            for tokens, targets in ((a.to(device), b.to(device)) for a, b in pairs):
                scored = targets != IGNORED
                expected = reference(tokens).logits[scored].float().log_softmax(-1)
                for name, model in others.items():
                    logits = model(tokens).logits[scored]
                    scores[name].add(logits, expected, targets[scored])
    return {name: found.figures() for name, found in scores.items()}
