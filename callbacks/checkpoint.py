"""The last state and the best one, written so that a crash never costs both."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint

from crystalline import checkpoint
from crystalline.errors import UserError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's reads and writes, through `crystalline.checkpoint`."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        _write(checkpoint, Path(path))

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return checkpoint.read(path)


def _write(state: dict[str, Any], path: Path) -> None:
    checkpoint.write(state, path)


class Checkpoint(LightningCheckpoint):
    """`checkpoints/last.ckpt` at intervals, at the end and on a signal; `best.ckpt` by `monitor`.

    Args:
        every_n_steps: Rounds between writes of last.ckpt; null for none.
        every_minutes: Minutes between writes of last.ckpt; null for none.
        monitor: Validation metric whose minimum makes best.ckpt.
    """

    def __init__(
        self,
        every_n_steps: int | None = 500,
        every_minutes: float | None = 10.0,
        monitor: str = "val/loss",
    ) -> None:
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self.monitor = monitor
        self.best_value: float | None = None
        self.best_step: int | None = None
        self._saved_at_s = time.monotonic()
        self._saved_step = -1

    def folder(self, trainer: lightning.Trainer) -> Path:
        return Path(trainer.default_root_dir) / "checkpoints"

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._saved_at_s = time.monotonic()
        if not (self.folder(trainer) / "best.ckpt").is_file():  # last.ckpt alone was taken along
            self.best_value = self.best_step = None

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        due = self.every_n_steps is not None and step % self.every_n_steps == 0
        if self.every_minutes is not None and not due:
            late = time.monotonic() - self._saved_at_s > 60 * self.every_minutes
            if trainer.world_size > 1:  # rank 0's clock decides; asking it costs a message
                late = step % 10 == 0 and trainer.strategy.broadcast(late)
            due = late
        if due and not validates_now(trainer, step):
            self.save_last(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor not in trainer.callback_metrics:
            raise UserError(
                f"callbacks.checkpoint.monitor={self.monitor} is not measured here; take val/loss"
            )
        value = float(trainer.callback_metrics[self.monitor])
        if self.best_value is None or value < self.best_value:
            self.best_value, self.best_step = value, trainer.global_step
            self._save(trainer, "best.ckpt")
        step = trainer.global_step
        if self.every_n_steps is not None and step % self.every_n_steps == 0:
            self.save_last(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.save_last(trainer)

    def save_last(self, trainer: lightning.Trainer) -> None:
        """Write last.ckpt, unless this round's is there already."""
        if trainer.global_step != self._saved_step:
            self._save(trainer, "last.ckpt")
            self._saved_step = trainer.global_step
        self._saved_at_s = time.monotonic()

    def _save(self, trainer: lightning.Trainer, name: str) -> None:
        # Loggers first: a resumed run must not lack metrics of the rounds before its checkpoint.
        for logger in trainer.loggers:
            flush = getattr(logger, "flush", None)
            if flush is not None:
                flush()
        trainer.save_checkpoint(self.folder(trainer) / name)

    def state_dict(self) -> dict[str, Any]:
        return {"best_value": self.best_value, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_value, self.best_step = state_dict["best_value"], state_dict["best_step"]


def validates_now(trainer: lightning.Trainer, step: int) -> bool:
    """Whether validation follows this round: last.ckpt then waits, to hold its outcome."""
    return isinstance(trainer.val_check_interval, int) and step % trainer.val_check_interval == 0
