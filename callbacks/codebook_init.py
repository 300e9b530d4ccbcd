"""Codes from data, before the first round."""

from __future__ import annotations

from typing import Any

import lightning
import torch
import torch.distributed as dist

from crystalline.quantizers.calibration import init_codebooks


class CodebookInit(lightning.Callback):
    """Runs k-means at every site on the first training rounds; nothing when resuming.

    Args:
        positions_per_code: Tokens read for each code of the largest book, in whole rounds.
        seed: Starting points of k-means.
    """

    def __init__(self, positions_per_code: int = 20, seed: int = 0) -> None:
        self.positions_per_code = positions_per_code
        self.seed = seed

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        books = pl_module.model.codebooks().values()
        sizes = [book.codebook_size for book in books if book.maintained]
        if trainer.global_step or not sizes:
            return
        if trainer.is_global_zero:
            train_batch = trainer.datamodule.train_batch  # type: ignore[attr-defined]
            parts = [train_batch(0).tokens]
            wanted = self.positions_per_code * max(sizes)
            while sum(part.numel() for part in parts) < wanted:
                parts.append(train_batch(len(parts)).tokens)
            init_codebooks(pl_module.model, torch.cat(parts).to(pl_module.device), self.seed)
        if trainer.world_size > 1:
            for book in books:
                for tensor in book.state_dict().values():
                    dist.broadcast(tensor, src=0)
