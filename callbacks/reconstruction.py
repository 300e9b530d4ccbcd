"""What codes give back of held-out text, and what both cost, when training is done."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict
from typing import Any

import torch
from lightning import Callback, Trainer

from callbacks.arguments import at_least_one
from callbacks.run_folder import save_artifact
from callbacks.undisturbed import undisturbed
from callbacks.validation_part import validation_part
from crystalline.metrics.reconstruction import FromCodes, reconstruction
from crystalline.text_table import text_table
from datamodules.batch import Batch, without_padding
from datamodules.streams import StreamDataModule

log = logging.getLogger(__name__)


class Reconstruction(Callback):
    """After the test, on the weights that were tested; models that speak from no code have none.

    `reconstruction/accuracy`, `nats` and `exact` of the summary are over all positions;
    `reconstruction.json` and `.txt` have them by length. `two_part/bpb` is what codes and tokens
    cost together, in bits a byte of the text, `token_bpb` and `code_bpb` are its terms. See
    `crystalline.metrics.reconstruction`. Rank 0 works alone.

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
            part = [batch for padded in part for batch in without_padding(*padded)]
            found = reconstruction(pl_module.model, part)
        if found is None or not found.rows:
            return
        rows = [asdict(row) for row in found.rows]
        self.figures = {
            f"reconstruction/{name}": rows[0][name] for name in ("accuracy", "nats", "exact")
        }
        self.figures |= _two_part(found, _num_bytes(trainer, part))
        table = text_table([row | {"length": row["length"] or "all"} for row in rows]) + "\n"
        save_artifact(trainer, "reconstruction.json", json.dumps(rows, indent=1) + "\n")
        save_artifact(trainer, "reconstruction.txt", table)
        log.info("what codes give back, by tokens a position:\n%s", table.rstrip())


def _num_bytes(trainer: Any, part: list[Batch]) -> int:
    """Bytes of the tokens that are told: all but a window's first, and but for its last target."""
    data = trainer.datamodule
    if not isinstance(data, StreamDataModule):  # no text
        return 0
    before = torch.cat([batch.tokens[:, :-1].flatten() for batch in part]).cpu().numpy()
    told = torch.cat([batch.tokens[:, 1:].flatten() for batch in part]).cpu().numpy()
    return data.bytes_of(before, told)


def _two_part(found: FromCodes, num_bytes: int) -> dict[str, float]:
    """Nothing for what is no text."""
    if not num_bytes:
        return {}
    parts = {"token_bpb": found.token_nats, "code_bpb": found.code_nats}
    bits = {name: nats / math.log(2) / num_bytes for name, nats in parts.items()}
    return {"two_part/bpb": sum(bits.values())} | {f"two_part/{k}": v for k, v in bits.items()}
