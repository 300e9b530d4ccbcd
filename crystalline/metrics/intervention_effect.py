"""How far an intervention moves predictions to where it should."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from crystalline.interpret.effects import jsd


class InterventionEffect(Metric):
    """`intervention_effect` = 1 - JSD(patched, target) / JSD(clean, target), sums over all rows.

    1: the patched model predicts as in the target; 0: as before; negative: further away than
    before. The ratio is that of the sums, over batches and processes, not a mean of ratios. Sums
    are kept in float64.
    """

    full_state_update = False
    patched: Tensor
    """Sum of JSD(patched, target), nats."""
    clean: Tensor
    """Sum of JSD(clean, target), nats."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("patched", "clean"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        patched: Float[Tensor, "*axes vocab"],
        clean: Float[Tensor, "*axes vocab"],
        target: Float[Tensor, "*axes vocab"],
    ) -> None:
        """Logits of the edited run, of the same run without the edit, and of the wanted one."""
        self.patched += jsd(patched, target).double().sum()
        self.clean += jsd(clean, target).double().sum()

    def compute(self) -> Tensor:
        """float64; NaN where clean and target were equal throughout."""
        return 1 - torch.where(self.clean > 0, self.patched / self.clean, torch.nan)
