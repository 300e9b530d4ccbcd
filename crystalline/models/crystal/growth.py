"""How many neurons are born, from whom, and what a birth does to the field."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from crystalline.models.crystal.activity import Activity
from crystalline.models.crystal.field import NeuronField

Split = Literal["published", "exact"]


class Growth:
    """The schedule of births.

    Args:
        every: Epochs between births.
        base: Pairs (share of training, neurons): below that share, so many are born at once.
        per_age: Whether parents are the neurons most active for their age, instead of most active.
        half: Whether at most half of the neurons that learn (or two) have a child at once.
        until: Share of training after which nothing is born.
        plateau: Smallest fall of the validation loss since the last look, in nats, at which
            nothing is born; None: births do not depend on it.

    Raises:
        ValueError: If `every` is below 1.
    """

    def __init__(
        self,
        every: int,
        base: Sequence[Sequence[float]],
        per_age: bool = False,
        half: bool = True,
        until: float = 1.0,
        plateau: float | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"model.growth.every must be at least 1, got {every}")
        self.every = every
        self.base = [(float(share), int(count)) for share, count in base]
        self.per_age = per_age
        self.half = half
        self.until = until
        self.plateau = plateau

    def ending_at(self, share: float) -> Growth:
        """The same without births after a share of training."""
        found = copy(self)
        found.until = min(self.until, share)
        return found

    def births(self, epoch: int, epochs: int, living: int, learning: int, room: int) -> int:
        """Neurons born at the end of an epoch.

        Args:
            epoch: From 1 on.
            epochs: Of the whole training.
            living: Neurons there are.
            learning: Those that are not frozen.
            room: Largest number of neurons.
        """
        progress = epoch / epochs
        if epoch % self.every or progress > self.until:
            return 0
        base = next((count for share, count in self.base if progress < share), self.base[-1][1])
        limit = max(learning // 2, 2) if self.half else learning
        return max(0, min(base, room - living, limit, learning))

    def parents(
        self, field: NeuronField, activity: Activity, epoch: int, count: int
    ) -> Int[Tensor, " count"]:
        """Rows of the most active neurons that learn; ties go to the lower row."""
        score = activity.average
        if self.per_age:
            score = score / (epoch - field.birth + 1)
        score = score.masked_fill(~field.alive | field.frozen, -torch.inf)
        return score.sort(descending=True, stable=True).indices[:count]


@torch.no_grad()
def give_birth(
    field: NeuronField,
    parents: Int[Tensor, " count"],
    epoch: int,
    split: Split,
    generator: torch.Generator,
    distance: float = 0.03,
) -> Int[Tensor, " count"]:
    """Write a child of each parent into free rows; returns them.

    "published": the child stands 0.1 N(0, I) away with half of its parent's value. "exact": child
    and parent have the same value and half of the mass each, and stand apart on opposite sides of
    where the parent was, by `distance` tau sqrt(D) each: to first order nothing changes.

    Args:
        field: Changed in place.
        parents: int64 rows.
        epoch: Their date of birth.
        split: See above.
        generator: On the CPU, so that all devices draw alike.
        distance: See above.
    """
    rows = (~field.alive).nonzero()[: len(parents), 0]
    shape = (len(rows), field.positions.shape[1])
    noise = torch.randn(shape, generator=generator).to(field.positions)
    if split == "exact":
        tau = field.tau()[parents]
        step = noise / noise.norm(dim=-1, keepdim=True) * shape[1] ** 0.5 * distance
        noise = step * tau[:, None]
        field.log_mass[parents] -= torch.log(torch.tensor(2.0))
    else:
        noise = 0.1 * noise
    for parameter in (field.positions, field.values, field.width, field.log_mass, field.scale):
        parameter[rows] = parameter[parents]
    field.positions[rows] += noise
    if split == "exact":
        field.positions[parents] -= noise
    else:
        field.values[rows] *= 0.5
    field.alive[rows] = True
    field.frozen[rows] = False
    field.birth[rows] = epoch
    field.parent[rows] = parents
    field.rate[rows] = 1.0
    return rows
