"""How far a run is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import math
import sys
import time
from typing import Any

import lightning
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

log = logging.getLogger(__name__)


class Progress(lightning.Callback):
    """Rounds done, loss, validation bits per byte, tokens per second, time left.

    Args:
        every_s: Seconds between lines where standard error is not a terminal.
    """

    def __init__(self, every_s: float = 30.0) -> None:
        self.every_s = every_s
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._said_s = -math.inf
        self._started_s = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._started_s, self._first_step = time.monotonic(), trainer.global_step
        if not trainer.is_global_zero or not sys.stderr.isatty():
            return
        self._bar = Bar(
            TextColumn("round"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=pl_module.total_steps)
        self._bar.start()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, description=_figures(trainer))
        elif time.monotonic() - self._said_s > self.every_s and pl_module.logs_now:
            self._said_s = time.monotonic()
            done = step - self._first_step
            left_s = (self._said_s - self._started_s) / done * (pl_module.total_steps - step)
            log.info(
                "round %d/%d  %s  %s left",
                step,
                pl_module.total_steps,
                _figures(trainer),
                _time(left_s),
            )

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if self._bar is None and trainer.state.fn == "fit":
            log.info(
                "round %d/%d  %s", trainer.global_step, pl_module.total_steps, _figures(trainer)
            )

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._close()

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: Any) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _figures(trainer: lightning.Trainer) -> str:
    """Such as "loss 3.21  val/bpb 2.345  10,240 tokens/s"; only what is known yet."""
    known = trainer.callback_metrics
    parts = []
    if "loss/prediction" in known:
        parts.append(f"loss {float(known['loss/prediction']):.3f}")
    for name in ("val/bpb", "val/loss"):
        if name in known:
            parts.append(f"{name} {float(known[name]):.4f}")
            break
    if "tokens_per_second" in known:
        parts.append(f"{float(known['tokens_per_second']):,.0f} tokens/s")
    return "  ".join(parts)


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
