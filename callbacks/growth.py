"""Parts of a model that grow and freeze do so between equal parts of training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning
import torch.distributed as dist
from torch import Tensor

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


def follow(optimizers: Iterable[Any], renewal: Renewal) -> None:
    """Fit what optimizers remember to rows that were born or stilled.

    A row that is born has no momentum and its parent's second moment: Adam's step counts are those
    of whole tensors, so a second moment of 0 would make the row's first steps far too long.
    """
    for optimizer in optimizers:
        if renewal.forget_all:
            optimizer.state.clear()
            continue
        for parameter in renewal.parameters:
            for name, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    _follow(name, value, renewal)


def _follow(name: str, value: Tensor, renewal: Renewal) -> None:
    if renewal.born is not None and renewal.parents is not None:
        value[renewal.born] = value[renewal.parents] if name == "exp_avg_sq" else 0.0
    if renewal.stilled is not None:
        value[renewal.stilled] = 0.0
