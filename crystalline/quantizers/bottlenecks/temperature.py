"""How sharply a bottleneck chooses: a temperature that is learned, fixed, or follows a schedule."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Scope = Literal["layer", "head", "position", "fixed", "annealed"]
SCOPES = ("layer", "head", "position", "fixed", "annealed")


class Temperature(nn.Module):
    """tau = minimum + softplus(rho), at most `maximum` (spec section 4).

    A clamp at the minimum would have no gradient below it, and a temperature that was pushed there
    could never come back; softplus always leads back (defect P5).

    Args:
        num_groups: G, groups of the bottleneck.
        d_group: Width of a group.
        scope: What has a temperature of its own: the "layer" (this bottleneck), each "head" (group)
            or each "position" (rho = w . n + b for each group, w starting at 0); "fixed" stays at
            `init`; "annealed" falls linearly from `init` to `minimum` with training.
        init: Value at the start.
        minimum: Lower limit, above 0.
        maximum: Upper limit.

    Raises:
        ValueError: If `scope` is unknown or not 0 < minimum < init <= maximum.
    """

    annealed: Float[Tensor, ""]
    seen: Float[Tensor, " groups"]

    def __init__(
        self,
        num_groups: int,
        d_group: int,
        *,
        scope: Scope = "layer",
        init: float = 0.2,
        minimum: float = 0.02,
        maximum: float = 5.0,
    ) -> None:
        super().__init__()
        if scope not in SCOPES:
            raise ValueError(f"temp_scope must be one of {', '.join(SCOPES)}, got {scope!r}")
        if not 0 < minimum < init <= maximum:
            raise ValueError(
                f"temperatures need 0 < temp_min < temp_init <= temp_max, got {minimum}, {init}, "
                f"{maximum}"
            )
        self.scope = scope
        self.init = init
        self.minimum = minimum
        self.maximum = maximum
        rho = torch.full((1,), math.log(math.expm1(init - minimum)))
        if scope in ("head", "position"):
            rho = rho.repeat(num_groups)
        self.rho = nn.Parameter(rho) if scope in ("layer", "head", "position") else None
        self.slope = None
        if scope == "position":
            # A vector, so that no optimizer takes it for a matrix and decays it.
            self.slope = nn.Parameter(torch.zeros(num_groups * d_group))
        self.register_buffer("annealed", torch.tensor(float(init)))
        self.register_buffer("seen", torch.full((num_groups,), float(init)), persistent=False)

    @property
    def learned(self) -> bool:
        """Whether a loss may move it."""
        return self.rho is not None

    def begin_round(self, progress: float) -> None:
        """Follow the schedule, where there is one."""
        if self.scope == "annealed":
            self.annealed.fill_(self.init + (self.minimum - self.init) * min(1.0, progress))

    def summary(self) -> Float[Tensor, " groups"]:
        """The temperature of each group, averaged over the positions of the latest pass."""
        return self.seen

    def forward(
        self, inputs: Float[Tensor, "batch pos groups d_group"]
    ) -> Float[Tensor, "#batch #pos groups"]:
        """The temperature of every group, and of every position where they differ; fp32."""
        groups = inputs.shape[-2]
        if self.rho is None:
            return self.annealed.expand(1, 1, groups)
        with torch.autocast(inputs.device.type, enabled=False):
            rho = self.rho
            if self.slope is not None:
                slope = self.slope.view(inputs.shape[-2:])
                rho = rho + (inputs.detach().float() * slope).sum(-1)
            tau = (self.minimum + F.softplus(rho)).clamp(max=self.maximum)
        if self.slope is None:
            tau = tau.expand(1, 1, groups)
        self.seen.copy_(tau.detach().mean((0, 1)))
        return tau
