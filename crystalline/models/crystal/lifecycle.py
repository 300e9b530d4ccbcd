"""The life of one field's neurons: measured, slowed down, frozen, born; one call an epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from crystalline.contract import Renewal
from crystalline.models.crystal.activity import Activity, Reading
from crystalline.models.crystal.field import NeuronField
from crystalline.models.crystal.freezing import Calm, Freezing
from crystalline.models.crystal.growth import Growth, Split, give_birth
from crystalline.models.crystal.scales import Scales


@dataclass(frozen=True)
class Manner:
    """How things are done: the published way or the repaired one."""

    reading: Reading
    calm: Calm
    split: Split
    hold: Literal["gradient", "update"]
    """What the rate of a neuron scales: its gradient, which AdamW does not heed, or its update."""
    optimizer: Literal["restart", "extend"]
    """What follows a birth: all optimizers start over, or the new rows get states of their own."""


class Lifecycle(nn.Module):
    """Rules and memory of a field.

    Args:
        field: Whose life it is.
        manner: See `Manner`.
        growth: Schedule of births; None: none.
        freezing: Rule of freezing; None: none.
        scales: Scales of the neurons; None: all 1.
        epochs: Of the whole training.
    """

    last_loss: Tensor

    def __init__(
        self,
        field: NeuronField,
        manner: Manner,
        growth: Growth | None,
        freezing: Freezing | None,
        scales: Scales | None,
        epochs: int,
    ) -> None:
        super().__init__()
        self._field = [field]  # not a submodule: its state is not this one's
        self.manner = manner
        self.growth = growth
        self.freezing = freezing
        self.scales = scales
        self.epochs = epochs
        self.activity = Activity(field.capacity, manner.reading)
        self.register_buffer("last_loss", torch.tensor(torch.inf, dtype=torch.float64))
        if scales is not None:
            scales.set(field, 1, epochs)

    @property
    def field(self) -> NeuronField:
        return self._field[0]

    def observe(self) -> None:
        """Note the gradients of a round."""
        gradient = self.field.positions.grad
        if gradient is not None:
            self.activity.observe(gradient.norm(dim=-1))

    @torch.no_grad()
    def end_epoch(self, epoch: int, seed: int, loss: float | None) -> list[Renewal]:
        """Freeze, then grow, then set the scales of the epoch that follows."""
        self.activity.end_epoch()
        field, renewals = self.field, []
        if self.freezing is not None:
            frozen = self.freezing.apply(field, self.activity, epoch, self.epochs, self.manner.calm)
            if self.manner.hold == "update" and bool(frozen.any()):
                rows = frozen.nonzero()[:, 0]
                renewals.append(Renewal(field.row_parameters(), stilled=rows))
        if self.growth is not None:
            renewals += self._grow(self.growth, epoch, seed, loss)
        if self.scales is not None:
            self.scales.set(field, epoch + 1, self.epochs)
        return renewals

    def _grow(self, growth: Growth, epoch: int, seed: int, loss: float | None) -> list[Renewal]:
        field = self.field
        living, frozen = int(field.alive.sum()), int(field.frozen.sum())
        count = growth.births(epoch, self.epochs, living, living - frozen, field.capacity)
        waits = growth.plateau is not None and count and not self._stands(growth.plateau, loss)
        if not count or waits:
            return []
        parents = growth.parents(field, self.activity, epoch, count)
        generator = torch.Generator().manual_seed(seed)
        rows = give_birth(field, parents, epoch, self.manner.split, generator)
        self.activity.forget(rows)
        restart = self.manner.optimizer == "restart"
        return [Renewal(field.row_parameters(), rows, parents, forget_all=restart)]

    def _stands(self, threshold: float, loss: float | None) -> bool:
        """Whether the loss has fallen by less than the threshold since the last look."""
        if loss is None:
            return False
        fallen = float(self.last_loss) - loss
        self.last_loss.fill_(loss)
        return fallen < threshold
