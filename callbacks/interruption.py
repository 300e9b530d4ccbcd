"""Ctrl-C and SIGTERM end a run after the round at hand, with its state saved."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Any

import lightning

from callbacks.checkpoint import validates_now

log = logging.getLogger(__name__)


class GracefulStop(lightning.Callback):
    """The first signal stops training at the end of the round; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        """Number of the signal that ended training."""
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        received = self.received or 0
        if trainer.world_size > 1:
            if trainer.global_step % 10:  # ranks must agree, which costs a message
                return
            received = int(trainer.strategy.reduce(received, reduce_op="max"))
        if received:
            self.received = received
            pl_module.interrupted = True
            trainer.should_stop = True
            if not validates_now(trainer, trainer.global_step):
                trainer.limit_val_batches = 0  # stopping would validate: late, and not exact

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._restore()

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: Any) -> None:
        self._restore()

    def _note(self, number: int, _frame: Any) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        log.info("%s: stopping after this round", signal.Signals(number).name)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
