"""Learning rates as a function of the round."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a cosine down to `final_fraction` of the rate (or no change).

    Raises:
        ValueError: If `shape` is unknown or a number is out of range.
    """

    shape: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 100
    final_fraction: float = 0.1

    def __post_init__(self) -> None:
        if self.shape not in ("cosine", "constant"):
            raise ValueError(
                f"objective.schedule.shape must be cosine or constant, got {self.shape!r}"
            )
        if self.warmup_steps < 0 or not 0 <= self.final_fraction <= 1:
            raise ValueError(
                "objective.schedule needs warmup_steps >= 0 and final_fraction in [0, 1], got "
                f"{self.warmup_steps} and {self.final_fraction}"
            )

    def over(self, total_steps: int) -> Callable[[int], float]:
        """Factor of the rate in round `step` (from 0) of `total_steps`."""
        warmup = min(self.warmup_steps, total_steps // 2)  # a short run still gets to its full rate

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            if self.shape == "constant":
                return 1.0
            done = min(1.0, (step - warmup) / max(1, total_steps - warmup))
            return self.final_fraction + (1 - self.final_fraction) * 0.5 * (
                1 + math.cos(math.pi * done)
            )

        return factor
