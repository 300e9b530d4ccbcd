"""Parts of a model that grow and freeze do so between equal parts of training."""

from __future__ import annotations

from typing import Any

import lightning

from callbacks.code_changes import follow_rank_0
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
        done, now = model.epochs_after(step - 1, total), model.epochs_after(step, total)
        if now == done:
            return
        loss = trainer.callback_metrics.get("val/loss")
        renewals: list[Renewal] = []
        for epoch in range(done + 1, now + 1):
            renewals += model.end_epoch(epoch, self.seed, None if loss is None else float(loss))
        if trainer.world_size > 1:
            follow_rank_0(model)
        for renewal in renewals:
            follow(trainer.optimizers, renewal)
        if pl_module.logs_now:
            pl_module.record(model.population())
