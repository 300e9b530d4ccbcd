"""Callbacks of benchmarks: how long rounds take, and what losses were."""

from __future__ import annotations

import statistics
import time
from typing import Any

import lightning
import torch

WARMUP_ROUNDS = 3
"""Rounds that do not count: compilers, recordings and allocators settle in them."""


class RoundTimes(lightning.Callback):
    """Times rounds and ends training once `limit_s` seconds, or five rounds if longer, are over."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.times_s: list[float] = []

    @property
    def round_s(self) -> float:
        """Median of the rounds after the warm-up."""
        return statistics.median(self.times_s[WARMUP_ROUNDS:])

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._since_s = time.perf_counter()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        now_s = time.perf_counter()
        self.times_s.append(now_s - self._since_s)
        self._since_s = now_s
        enough = len(self.times_s) >= WARMUP_ROUNDS + 2 and sum(self.times_s) > self.limit_s
        trainer.should_stop = trainer.should_stop or enough


class LossCurve(lightning.Callback):
    """Prediction losses of logged rounds and of validations, as (round, nats)."""

    def __init__(self) -> None:
        self.train: list[tuple[int, float]] = []
        self.val: list[tuple[int, float]] = []

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.logs_now:
            self._note(self.train, trainer, "loss/prediction")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._note(self.val, trainer, "val/loss")

    def _note(self, losses: list[tuple[int, float]], trainer: lightning.Trainer, key: str) -> None:
        losses.append((trainer.global_step, float(trainer.callback_metrics[key])))
