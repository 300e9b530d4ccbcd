"""Learned temperatures while they train."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import lightning

from callbacks.run_folder import save_artifact
from crystalline.interpret.sites import layer_of
from crystalline.tradeoff import curves_png


class Temperatures(lightning.Callback):
    """Logs `temperature/<site>` for every site that has one, and their mean in each layer.

    At the end of training the means are drawn: `temperatures.png` in the run folder; the last ones
    are in the summary.
    """

    def __init__(self) -> None:
        self.means: dict[str, list[tuple[float, float]]] = {}
        """(round, mean temperature) of each layer, as logged."""

    @property
    def figures(self) -> dict[str, float]:
        """Of the summary: the last mean of each layer."""
        return {f"temperature/{name}": points[-1][1] for name, points in self.means.items()}

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not pl_module.logs_now:
            return
        values = {s: float(t.float().mean()) for s, t in pl_module.model.temperatures().items()}
        layers: dict[int, list[float]] = defaultdict(list)
        for site, value in values.items():
            if (layer := layer_of(site)) is not None:
                layers[layer].append(value)
        means = {f"layer_{n}": sum(v) / len(v) for n, v in layers.items()}
        for name, mean in means.items():
            self.means.setdefault(name, []).append((trainer.global_step, mean))
        found = values | means
        if found:
            pl_module.record({f"temperature/{name}": value for name, value in found.items()})

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if self.means and not pl_module.interrupted:
            curves = {name: [points] for name, points in self.means.items()}
            picture = curves_png(curves, "round", "temperature")
            if trainer.is_global_zero:
                save_artifact(trainer, "temperatures.png", picture)

    def state_dict(self) -> dict[str, Any]:
        return {"means": self.means}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.means = state_dict["means"]
