"""Codes from data: before the first round, and again while the inputs still change quickly."""

from __future__ import annotations

from typing import Any

import lightning
import torch

from callbacks.code_changes import follow_rank_0, forget_momentum
from crystalline.quantizers.calibration import init_codebooks


class CodebookInit(lightning.Callback):
    """Runs k-means at every site on the latest training rounds.

    Inputs of young models move faster than codes can follow, so codes are fitted anew at intervals
    (Lancucki et al. 2020, arXiv:2005.08520); in the later part of training they keep their places
    and thereby their meaning. Rank 0 fits on global batches, the others follow.

    Args:
        positions_per_code: Tokens read for each code of the largest book, in whole rounds.
        every_n_steps: Rounds between two fits; null for the first one alone.
        until: Share of training after which codes are not fitted anew.
        seed: With the round, decides the starting points of k-means.
    """

    def __init__(
        self,
        positions_per_code: int = 20,
        every_n_steps: int | None = 100,
        until: float = 0.5,
        seed: int = 0,
    ) -> None:
        self.positions_per_code = positions_per_code
        self.every_n_steps = every_n_steps
        self.until = until
        self.seed = seed

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if trainer.global_step == 0:
            self._fit(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        due = self.every_n_steps is not None and step % self.every_n_steps == 0
        if due and step <= self.until * pl_module.total_steps:
            self._fit(trainer, pl_module)

    def _fit(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        books = [book for book in pl_module.model.codebooks().values() if book.maintained]
        if not books:
            return
        step = trainer.global_step
        if trainer.is_global_zero:
            wanted = self.positions_per_code * max(book.codebook_size for book in books)
            tokens = _latest_tokens(trainer.datamodule, step, wanted)  # type: ignore[attr-defined]
            seed = self.seed * 1_000_003 + step
            init_codebooks(pl_module.model, tokens.to(pl_module.device), seed)
        for book in books:
            if trainer.world_size > 1:
                follow_rank_0(book)
            every = torch.ones_like(book.idle, dtype=torch.bool)
            forget_momentum(trainer.optimizers, book.codes, every)


def _latest_tokens(datamodule: Any, step: int, wanted: int) -> torch.Tensor:
    """At least `wanted` tokens of the rounds before `step`, or of the first ones at the start."""
    first = datamodule.train_batch(max(0, step - 1)).tokens
    count = -(-wanted // first.numel())
    rounds = range(count) if step == 0 else range(max(0, step - count), step)
    return torch.cat([datamodule.train_batch(round_).tokens for round_ in rounds])
