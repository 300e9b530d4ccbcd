"""Whether the codes are used: what the tested weights lose without them."""

from __future__ import annotations

import logging
from typing import Any

from lightning import Callback, Trainer

from callbacks.arguments import at_least_one
from callbacks.undisturbed import undisturbed
from callbacks.validation_part import validation_part
from crystalline.interpret.code_use import code_use
from crystalline.text_table import text_table

log = logging.getLogger(__name__)


class CodeUse(Callback):
    """After the test, on the weights that were tested: `code_use/<site>/...` of the summary.

    See `crystalline.interpret.code_use.code_use`. Models without codes have none. Rank 0 works
    alone.

    Args:
        positions: Validation tokens that are read, in whole windows.
        seed: Of the permutation.

    Raises:
        UserError: If `positions` is below 1.
    """

    def __init__(self, positions: int, seed: int) -> None:
        at_least_one("code_use", positions=positions)
        self.positions = positions
        self.seed = seed
        self.figures: dict[str, float] = {}
        """Of the summary."""

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        with undisturbed(pl_module):
            part = validation_part(trainer, pl_module, self.positions)
            found = code_use(pl_module.model, part, self.seed)
        self.figures = {
            f"code_use/{site}/{name}": value
            for site, figures in found.items()
            for name, value in figures.items()
        }
        columns = list(next(iter(found.values()), {}))
        rows = [
            {"codes replaced": site, **{name: figures.get(name, "") for name in columns}}
            for site, figures in found.items()
        ]
        if rows:
            log.info("what replaced codes cost, nats a token:\n%s", text_table(rows))
