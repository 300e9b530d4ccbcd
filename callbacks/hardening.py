"""How discrete each layer has become, measured when the run is done."""

from __future__ import annotations

from typing import Any

from lightning import Callback, Trainer

from callbacks.arguments import at_least_one
from callbacks.undisturbed import undisturbed
from callbacks.validation_part import validation_part
from crystalline.metrics.hardening import hardening


class Hardening(Callback):
    """After the test, on the weights that were tested: `hardening/layer_<i>` and `hardening/all`.

    See the metric. Models whose training has no chance in it have none. Rank 0 works alone.

    Args:
        positions: Validation tokens that are read, in whole windows.
        seeds: Draws of the noise.

    Raises:
        UserError: If a number is below 1.
    """

    def __init__(self, positions: int, seeds: int) -> None:
        at_least_one("hardening", positions=positions, seeds=seeds)
        self.positions = positions
        self.seeds = seeds
        self.figures: dict[str, float] = {}
        """Of the summary."""

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            with undisturbed(pl_module):
                part = validation_part(trainer, pl_module, self.positions)
                self.figures = hardening(pl_module.model, part, self.seeds)
