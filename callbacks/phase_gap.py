"""Does a model know its training text by where it stood in the window?

Windows whose starts are always the same show each token at one place, so a model that sees place
and token alone can learn what followed. Read from other starts, the same text is new to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer

from crystalline.errors import UserError
from crystalline.metrics.token_loss import mean_nats


class PhaseGap(Callback):
    """At validations: training loss at multiples of the stride, and away from them.

    `phase_gap/aligned` and `phase_gap/shifted`, nats a token, `phase_gap` their difference. Rank 0
    works alone.

    Args:
        windows: Read of the training split, spread evenly.
        stride: Tokens between the starts of training windows.
        shifts: Tokens by which starts are moved.

    Raises:
        UserError: If a shift is a multiple of the stride.
    """

    def __init__(self, windows: int, stride: int, shifts: Sequence[int]) -> None:
        if not shifts or any(shift % stride == 0 for shift in shifts):
            raise UserError(
                f"callbacks.phase_gap.shifts must not be multiples of the stride {stride}, "
                f"got {list(shifts)}"
            )
        self.windows = windows
        self.stride = stride
        self.shifts = shifts
        self.figures: dict[str, float] = {}
        """Of the summary."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            self.figures = self._measured(trainer.datamodule, pl_module)  # type: ignore[attr-defined]
            pl_module.record(self.figures)

    def _measured(self, data: Any, pl_module: Any) -> dict[str, float]:
        ids, length = data.train_tokens(), data.seq_len
        places = (len(ids) - length - max(self.shifts) - 1) // self.stride
        count = min(self.windows, places)
        starts = np.arange(count) * places // count * self.stride
        aligned = _loss(pl_module, ids, starts, length)
        shifted = [_loss(pl_module, ids, starts + shift, length) for shift in self.shifts]
        mean = sum(shifted) / len(shifted)
        return {
            "phase_gap/aligned": aligned,
            "phase_gap/shifted": mean,
            "phase_gap": mean - aligned,
        }


def _loss(pl_module: Any, ids: np.ndarray, starts: np.ndarray, length: int) -> float:
    """Nats a token of the windows that start there."""

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for part in np.array_split(starts, -(-len(starts) // 64)):
            rows = ids[part[:, None] + np.arange(length + 1)].astype(np.int64)
            tokens = torch.from_numpy(rows).to(pl_module.device)
            yield tokens[:, :-1], tokens[:, 1:].contiguous()

    return mean_nats(pl_module.model, batches())
