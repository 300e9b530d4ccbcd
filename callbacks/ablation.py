"""What each part of a model is worth: the validation loss without it."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback, Trainer

from callbacks.arguments import at_least_one
from callbacks.undisturbed import undisturbed
from callbacks.validation_part import validation_part
from crystalline.metrics.token_loss import mean_nats


class Ablation(Callback):
    """After the test, on the weights that were tested: `ablation/<part>`, nats a token more.

    Parts are those that the model names (`LanguageModel.ablations`). Rank 0 works alone.

    Args:
        positions: Validation tokens that are read, in whole windows.

    Raises:
        UserError: If it is below 1.
    """

    def __init__(self, positions: int) -> None:
        at_least_one("ablation", positions=positions)
        self.positions = positions
        self.figures: dict[str, float] = {}
        """Of the summary."""

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero or not pl_module.model.ablations():
            return
        with undisturbed(pl_module):
            part = validation_part(trainer, pl_module, self.positions)
            whole = mean_nats(pl_module.model, part)
            self.figures = {
                f"ablation/{name}": _silenced(pl_module.model, parameters, part) - whole
                for name, parameters in pl_module.model.ablations().items()
            }


@torch.no_grad()
def _silenced(model: Any, parameters: list[torch.nn.Parameter], part: Any) -> float:
    kept = [parameter.clone() for parameter in parameters]
    for parameter in parameters:
        parameter.zero_()
    try:
        return mean_nats(model, part)
    finally:
        for parameter, before in zip(parameters, kept, strict=True):
            parameter.copy_(before)
