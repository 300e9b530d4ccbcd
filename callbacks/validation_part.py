"""A fixed part of the validation split, for figures that a whole pass would cost too much."""

from __future__ import annotations

from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer

from datamodules.batch import Batch
from datamodules.rounds import RoundDataModule


def validation_part(trainer: Trainer, pl_module: LightningModule, positions: int) -> list[Batch]:
    """About `positions` tokens in whole windows, at least one, spread evenly over the split.

    The same on every process, on the module's device.
    """
    data: RoundDataModule = _data(trainer)
    total = data.num_eval_windows("val")
    seq_len = data.eval_windows("val", np.arange(1)).tokens.shape[1]
    count = min(max(1, positions // seq_len), total)
    numbers = np.arange(count) * total // count
    parts = np.array_split(numbers, -(-count // data.eval_batch_size))
    batches = [data.eval_windows("val", part) for part in parts]
    device = pl_module.device
    return [Batch(tokens.to(device), targets.to(device)) for tokens, targets in batches]


def _data(trainer: Any) -> RoundDataModule:
    return trainer.datamodule
