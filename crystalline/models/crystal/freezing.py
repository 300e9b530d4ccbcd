"""Which neurons stop learning, or slow down, and when."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from crystalline.models.crystal.activity import Activity
from crystalline.models.crystal.field import NeuronField

Calm = Literal["variance", "deviation"]


class Freezing(ABC):
    """A rule that is asked at the end of each epoch."""

    @abstractmethod
    def apply(
        self, field: NeuronField, activity: Activity, epoch: int, epochs: int, calm: Calm
    ) -> Bool[Tensor, " capacity"]:
        """Freeze or slow down neurons; returns which have been frozen now."""


class Graceful(Freezing):
    """The calmest neurons freeze, a few at a time and more of them as training goes on.

    Args:
        aggression: Pairs (share of training, A), by rising share: A is 0 before the first.
        interpolate: Whether A moves straight from pair to pair, or by steps.
        every: Epochs between looks.
        share: Of the candidates, times A: so many freeze at once.
        least: At least so many.
        most: At most so many; None: no limit.
        min_age: Epochs since birth after which a neuron is a candidate.
        min_candidates: Nothing freezes while there are fewer.
        min_readings: Nothing freezes before so many readings.
        quantile: Only neurons calmer than this share of the candidates freeze.
        variance_weight: Of the variance of readings beside their mean, where it is the variance
            that counts and not the standard deviation.
        strength: A is divided by it.
    """

    def __init__(
        self,
        aggression: Sequence[Sequence[float]],
        *,
        interpolate: bool = True,
        every: int = 10,
        share: float = 0.1,
        least: int = 1,
        most: int | None = 15,
        min_age: int = 50,
        min_candidates: int = 10,
        min_readings: int = 10,
        quantile: float = 0.5,
        variance_weight: float = 10.0,
        strength: float = 1.0,
    ) -> None:
        self.aggression = [(float(at), float(value)) for at, value in aggression]
        self.interpolate = interpolate
        self.every = every
        self.share = share
        self.least = least
        self.most = most
        self.min_age = min_age
        self.min_candidates = min_candidates
        self.min_readings = min_readings
        self.quantile = quantile
        self.variance_weight = variance_weight
        self.strength = strength

    def force(self, progress: float) -> float:
        """A at a share of training, over `strength`."""
        points = self.aggression
        before = [point for point in points if point[0] <= progress]
        if not before:
            return 0.0
        (at, value), after = before[-1], points[len(before) :]
        if self.interpolate and after:
            value += (after[0][1] - value) * (progress - at) / (after[0][0] - at)
        return value / self.strength

    def quota(self, candidates: int, progress: float) -> int:
        """Neurons that may freeze at once."""
        found = max(self.least, int(self.share * self.force(progress) * candidates))
        return min(found, candidates if self.most is None else self.most)

    def apply(
        self, field: NeuronField, activity: Activity, epoch: int, epochs: int, calm: Calm
    ) -> Bool[Tensor, " capacity"]:
        chosen = torch.zeros_like(field.frozen)
        progress = epoch / epochs
        ready = int(activity.readings) >= self.min_readings
        if epoch % self.every or progress < self.aggression[0][0] or not ready:
            return chosen
        old = epoch - field.birth >= self.min_age
        rows = (field.alive & ~field.frozen & old).nonzero()[:, 0]
        if len(rows) < self.min_candidates:
            return chosen
        mean, variance = activity.history[rows].mean(1), activity.history[rows].var(1)
        limit = mean.quantile(self.quantile)
        if calm == "variance":
            heat, below = mean + self.variance_weight * variance, mean < limit
        else:
            heat, below = mean + variance.sqrt(), mean <= limit
        coldest = heat.sort(stable=True).indices[: self.quota(len(rows), progress)]
        chosen[rows[coldest[below[coldest]]]] = True
        field.frozen |= chosen
        field.rate.masked_fill_(chosen, 0.0)
        return chosen


class ByAge(Freezing):
    """A neuron freezes at an age that its scale decides, whatever it is doing.

    Args:
        shortest: Epochs of life at the smallest scale.
        longer: Epochs more at the largest.
        scales: Smallest and largest scale.
    """

    def __init__(
        self, shortest: float = 30, longer: float = 170, scales: Sequence[float] = (0.05, 0.8)
    ) -> None:
        self.shortest = shortest
        self.longer = longer
        self.low, self.high = scales

    def apply(
        self, field: NeuronField, activity: Activity, epoch: int, epochs: int, calm: Calm
    ) -> Bool[Tensor, " capacity"]:
        relative = (field.scale - self.low) / (self.high - self.low)
        end = field.birth + self.shortest + self.longer * relative
        chosen = field.alive & ~field.frozen & (epoch >= end)
        field.frozen |= chosen
        field.rate.masked_fill_(chosen, 0.0)
        return chosen


class Soft(Freezing):
    """Nothing freezes; a neuron learns the slower the older it is.

    Args:
        halflife: Epochs after which a neuron learns half as fast.
        floor: Slowest rate.
    """

    def __init__(self, halflife: float = 50, floor: float = 0.01) -> None:
        self.halflife = halflife
        self.floor = floor

    def apply(
        self, field: NeuronField, activity: Activity, epoch: int, epochs: int, calm: Calm
    ) -> Bool[Tensor, " capacity"]:
        age = (epoch - field.birth).float()
        rate = (0.5 ** (age / self.halflife)).clamp(min=self.floor)
        field.rate.copy_(torch.where(field.alive, rate, 0.0))
        return torch.zeros_like(field.frozen)
