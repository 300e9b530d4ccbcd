"""Tokens per second and peak memory."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning
import torch


class Throughput(lightning.Callback):
    """Logs `tokens_per_second` and `peak_memory_mib` at every logging round.

    Only training rounds count: the clock stands still during validation and checkpoints. The
    summary takes the median over logging intervals, which compilation and warm-up do not move.
    """

    def __init__(self) -> None:
        self.intervals: list[float] = []
        """Tokens per second of every logging interval of this process."""
        self._elapsed_s = 0.0
        self._rounds = 0
        self._since_s: float | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Median over the intervals; None before the first one."""
        return statistics.median(self.intervals) if self.intervals else None

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._since_s is None:
            _synchronize(pl_module.device)
            self._since_s = time.perf_counter()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._rounds += 1
        if not pl_module.logs_now:
            return
        self._pause(pl_module.device)
        self.intervals.append(self._rounds * pl_module.tokens_per_round / self._elapsed_s)
        self._elapsed_s, self._rounds = 0.0, 0
        memory = peak_memory_mib(pl_module.device)
        pl_module.record({"tokens_per_second": self.intervals[-1], "peak_memory_mib": memory})

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._pause(pl_module.device)

    def _pause(self, device: torch.device) -> None:
        if self._since_s is not None:
            _synchronize(device)
            self._elapsed_s += time.perf_counter() - self._since_s
            self._since_s = None


def peak_memory_mib(device: torch.device) -> float:
    """Most memory held so far: allocated on a GPU, resident of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def reset_peak_memory() -> None:
    """Forget what was held before, so that `peak_memory_mib` is of what follows.

    On a CPU, Linux alone can: elsewhere peaks are those of the process.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
