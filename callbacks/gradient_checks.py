"""Experiment E1: the gradients of a run's bottlenecks and the toy of eight clusters."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.run_folder import save_artifact
from callbacks.undisturbed import undisturbed
from crystalline.errors import UserError
from crystalline.quantizers.bottlenecks import CrystallineBottleneck, SourceBottleneck, Temperature
from crystalline.quantizers.bottlenecks.source import ClampedTemperature
from crystalline.verification.clusters import CODES, WIDTH, learn_clusters
from crystalline.verification.gradients import verify, worst


class GradientChecks(Callback):
    """After the test: `gradients.json`, and figures `gradients/...`, `toy/...`, `toy_source/...`.

    Args:
        sequences: Validation sequences that are read.
        points: Vectors at each site.
        directions: Random directions of finite differences.
        toy_rounds: Rounds of the toy; 0 leaves it out.
        toy_temp_init: Temperature of the toy's bottleneck at the start.
        toy_temp_min: Its lower limit.
        source_temp_init: Of the toy with the seed's bottleneck.
        source_temp_min: Its lower limit.
        seed: Of points, directions and toy.

    Raises:
        UserError: If a number is out of range.
    """

    def __init__(
        self,
        *,
        sequences: int,
        points: int,
        directions: int,
        toy_rounds: int,
        toy_temp_init: float,
        toy_temp_min: float,
        source_temp_init: float,
        source_temp_min: float,
        seed: int,
    ) -> None:
        counts = {"sequences": sequences, "points": points, "directions": directions}
        for name, value in {**counts, "toy_rounds": toy_rounds}.items():
            least = 0 if name == "toy_rounds" else 1
            if value < least:
                raise UserError(f"callbacks.gradient_checks.{name}={value}: give {least} or more")
        self.sequences, self.points, self.directions = sequences, points, directions
        self.toy_rounds, self.seed = toy_rounds, seed
        self.toys = {
            "toy": lambda: (
                CrystallineBottleneck(WIDTH, CODES, 1),
                Temperature(1, WIDTH, init=toy_temp_init, minimum=toy_temp_min),
            ),
            "toy_source": lambda: (
                SourceBottleneck(WIDTH, CODES, 1),
                ClampedTemperature(source_temp_init, source_temp_min),
            ),
        }
        self.figures: dict[str, float] = {}
        """Of the summary."""

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        model: Any = pl_module.model
        numbers = np.arange(min(self.sequences, data.num_eval_windows("val")))
        with (
            undisturbed(pl_module),
            torch.inference_mode(False),
        ):  # Lightning tests without gradients
            sites = verify(
                model,
                [data.eval_windows("val", numbers).tokens],
                points=self.points,
                directions=self.directions,
                seed=self.seed,
            )
            self.figures = {f"gradients/{k}": v for k, v in worst(sites.values()).items()}
            for name, build in self.toys.items() if self.toy_rounds else ():
                found = learn_clusters(build, self.toy_rounds, self.seed)
                self.figures |= {f"{name}/{k}": float(v) for k, v in found._asdict().items()}
        report = {"sites": sites, "figures": self.figures}
        save_artifact(trainer, "gradients.json", json.dumps(report, indent=1) + "\n")
