"""What codes give back of held-out text, when training is done."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from typing import Any

from lightning import Callback, Trainer

from callbacks.arguments import at_least_one
from callbacks.run_folder import save_artifact
from callbacks.undisturbed import undisturbed
from callbacks.validation_part import validation_part
from crystalline.metrics.reconstruction import reconstruction
from crystalline.text_table import text_table

log = logging.getLogger(__name__)


class Reconstruction(Callback):
    """After the test, on the weights that were tested: `reconstruction/...` of the summary.

    `accuracy`, `nats` and `exact` over all positions; `reconstruction.json` and `.txt` have them by
    length; see `crystalline.metrics.reconstruction`. Models that speak from no code of their own
    have none. Rank 0 works alone.

    Args:
        positions: Validation tokens that are read, in whole windows.

    Raises:
        UserError: If `positions` is below 1.
    """

    def __init__(self, positions: int) -> None:
        at_least_one("reconstruction", positions=positions)
        self.positions = positions
        self.figures: dict[str, float] = {}
        """Of the summary."""

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        with undisturbed(pl_module):
            part = validation_part(trainer, pl_module, self.positions)
            rows = [asdict(row) for row in reconstruction(pl_module.model, part)]
        if not rows:
            return
        self.figures = {
            f"reconstruction/{name}": rows[0][name] for name in ("accuracy", "nats", "exact")
        }
        table = text_table([row | {"length": row["length"] or "all"} for row in rows]) + "\n"
        save_artifact(trainer, "reconstruction.json", json.dumps(rows, indent=1) + "\n")
        save_artifact(trainer, "reconstruction.txt", table)
        log.info("what codes give back, by tokens a position:\n%s", table.rstrip())
