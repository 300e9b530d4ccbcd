"""Factors on the reach of single neurons: by age, by a tide, by the tide at birth."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from crystalline.models.crystal.field import NeuronField


class Scales(ABC):
    """The scale that neurons have in an epoch; a frozen one keeps what it had."""

    @abstractmethod
    def of(self, birth: Tensor, epoch: int, epochs: int) -> Tensor:
        """Scale of neurons born at the end of epoch `birth`, during epoch `epoch` (from 1 on)."""

    @torch.no_grad()
    def set(self, field: NeuronField, epoch: int, epochs: int) -> None:
        """Give the field the scales of an epoch."""
        new = self.of(field.birth, epoch, epochs).to(field.scale.dtype)
        field.scale.copy_(torch.where(field.frozen, field.scale, new))


class ByAge(Scales):
    """low + span (1 - exp(-rate age)): a neuron sees farther as it grows older."""

    def __init__(self, low: float = 0.05, span: float = 0.95, rate: float = 0.02) -> None:
        self.low = low
        self.span = span
        self.rate = rate

    def of(self, birth: Tensor, epoch: int, epochs: int) -> Tensor:
        age = (epoch - birth).float()
        return self.low + self.span * (1 - torch.exp(-self.rate * age))


class Tide(Scales):
    """One scale for all that learn, which rises and falls again.

    Args:
        low: Lowest.
        span: From lowest to highest.
        period: Epochs.
        shape: "saw" rises and drops, "sine" swings.
    """

    def __init__(
        self,
        low: float = 0.05,
        span: float = 0.75,
        period: int = 60,
        shape: Literal["saw", "sine"] = "saw",
    ) -> None:
        self.low = low
        self.span = span
        self.period = period
        self.shape = shape

    def of(self, birth: Tensor, epoch: int, epochs: int) -> Tensor:
        phase = epoch % self.period / self.period
        if self.shape == "sine":
            phase = 0.5 + 0.5 * math.sin(2 * math.pi * phase - math.pi / 2)
        return torch.full_like(birth, self.low + self.span * phase, dtype=torch.float32)


class BirthTide(Scales):
    """A tide that rises once in a training; each neuron keeps the height at its birth."""

    def __init__(self, low: float = 0.05, span: float = 0.75) -> None:
        self.low = low
        self.span = span

    def of(self, birth: Tensor, epoch: int, epochs: int) -> Tensor:
        return self.low + self.span * birth.clamp(min=1).float() / epochs
