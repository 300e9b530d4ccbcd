"""Parts of a model that grow and freeze do so between equal parts of training."""

from __future__ import annotations

from typing import Any

import lightning
import torch.distributed as dist

from callbacks.renewals import follow
from crystalline.contract import Renewal


class Growth(lightning.Callback):
    """Ends the model's epochs (`LanguageModel.end_epoch`) and lets optimizers follow.

    Epochs are equal parts of the planned rounds; where there are fewer rounds than epochs, several
    end with a round. Under DDP every rank decides on the same numbers, and rank 0's buffers and
    weights are what counts.

    Args:
        seed: Decides what is drawn.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        model, total, step = pl_module.model, pl_module.total_steps, trainer.global_step
        if not model.epochs:
            return
        done, now = ((step - 1) * model.epochs // total, step * model.epochs // total)
        loss = trainer.callback_metrics.get("val/loss")
        renewals: list[Renewal] = []
        for epoch in range(done + 1, now + 1):
            renewals += model.end_epoch(epoch, self.seed, None if loss is None else float(loss))
        if now > done and trainer.world_size > 1:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, src=0)
        for renewal in renewals:
            follow(trainer.optimizers, renewal)
        if now > done and pl_module.logs_now:
            pl_module.record(model.population())
