"""Parts that may be frozen for good."""

from __future__ import annotations

from torch import nn


class Freezable(nn.Module):
    """A part that, once frozen, has no gradient and stays in evaluation.

    `train()` of whatever holds it leaves it in evaluation too: statistics of frozen parts would
    move otherwise, with no gradient at all.
    """

    frozen: bool = False

    def freeze(self) -> None:
        self.frozen = True
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Freezable:
        super().train(mode and not self.frozen)
        return self
