"""How sure choices are, at every validation and at the end."""

from __future__ import annotations

from typing import Any

from lightning import Callback, Trainer

from callbacks.arguments import at_least_one
from callbacks.undisturbed import undisturbed
from callbacks.validation_part import validation_part
from crystalline.metrics.assignment import assignment_entropy


class AssignmentEntropy(Callback):
    """Logs `assignment/entropy` and `assignment/noise_floor`, means and by site; see the metric.

    The summary has those of the weights that were tested. Rank 0 works alone.

    Args:
        positions: Validation tokens that are read, in whole windows.

    Raises:
        UserError: If `positions` is below 1.
    """

    def __init__(self, positions: int) -> None:
        at_least_one("assignment_entropy", positions=positions)
        self.positions = positions
        self.figures: dict[str, float] = {}
        """Of the summary."""

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero and (found := self._measured(trainer, pl_module)):
            pl_module.record(found)

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self.figures = self._measured(trainer, pl_module)

    def _measured(self, trainer: Trainer, pl_module: Any) -> dict[str, float]:
        with undisturbed(pl_module):
            part = validation_part(trainer, pl_module, self.positions)
            return assignment_entropy(pl_module.model, part)
