"""Bits that pass through a model's codes, a token."""

from __future__ import annotations

from typing import Any

import lightning

from crystalline.metrics.code_rate import CodeRate
from datamodules.batch import IGNORED
from lightning_modules.language_modeling import EVALUATION_SPLITS


class CodeBits(lightning.Callback):
    """`<split>/code_bits` of the summary, for every split of the test; see `CodeRate`.

    `<split>/code_bits/<site>` are its terms, and `code_bits_limit` is what the sites could pass at
    most. Models without codes have none.
    """

    def __init__(self) -> None:
        self.figures: dict[str, float] = {}
        """Of the summary."""
        self._rates: dict[str, CodeRate] = {}

    def on_test_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._rates = {split: CodeRate() for split in EVALUATION_SPLITS}

    def on_test_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        rate = self._rates[EVALUATION_SPLITS[dataloader_idx]]
        rate.update(outputs["codes"], batch.targets != IGNORED)

    def on_test_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        for split, rate in self._rates.items():
            found = rate.over_processes().figures()
            if not found:
                return
            limit = found.pop("code_bits_limit")
            self.figures |= {f"{split}/{name}": value for name, value in found.items()}
            if split == "test":
                self.figures["code_bits_limit"] = limit
