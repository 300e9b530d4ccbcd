"""Learned temperatures while they train."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import lightning


class Temperatures(lightning.Callback):
    """Logs `temperature/<site>` for every site that has one, and their mean in each layer."""

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not pl_module.logs_now:
            return
        values = {s: float(t.float().mean()) for s, t in pl_module.model.temperatures().items()}
        layers: dict[str, list[float]] = defaultdict(list)
        for site, value in values.items():
            if number := re.search(r"\.(\d+)\.", site):
                layers[number[1]].append(value)
        means = {f"temperature/layer_{n}": sum(v) / len(v) for n, v in layers.items()}
        if values:
            pl_module.record({f"temperature/{site}": v for site, v in values.items()} | means)
