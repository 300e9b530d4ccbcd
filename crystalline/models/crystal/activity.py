"""How much each neuron is pulled about: the norm of its position's gradient."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

READINGS = 10
"""Readings that are remembered."""

Reading = Literal["round", "epoch"]


class Activity(nn.Module):
    """A moving average of gradient norms and the last ten readings of it.

    Args:
        capacity: Neurons.
        reading: What a reading is of: one round, as published, or the mean of an epoch.
    """

    average: Tensor
    history: Tensor
    readings: Tensor
    total: Tensor
    rounds: Tensor

    def __init__(self, capacity: int, reading: Reading) -> None:
        super().__init__()
        self.reading: Reading = reading
        self.register_buffer("average", torch.zeros(capacity))
        self.register_buffer("history", torch.zeros(capacity, READINGS))
        self.register_buffer("readings", torch.zeros((), dtype=torch.int64))
        self.register_buffer("total", torch.zeros(capacity))
        self.register_buffer("rounds", torch.zeros(()))

    @torch.no_grad()
    def observe(self, norms: Float[Tensor, " capacity"]) -> None:
        """Note the gradient norms of a round."""
        if self.reading == "round":
            self._note(norms, 0.9)
        else:
            self.total += norms
            self.rounds += 1

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Make a reading of the epoch, where readings are of epochs."""
        if self.reading == "epoch":
            self._note(self.total / self.rounds.clamp(min=1), 0.5)
            self.total.zero_()
            self.rounds.zero_()

    @torch.no_grad()
    def forget(self, rows: Tensor) -> None:
        """Begin anew for some neurons."""
        self.average[rows] = 0
        self.history[rows] = 0
        self.total[rows] = 0

    def _note(self, norms: Tensor, keep: float) -> None:
        self.average.mul_(keep).add_(norms, alpha=1 - keep)
        self.history.copy_(torch.cat([self.history[:, 1:], norms[:, None]], 1))
        self.readings += 1
