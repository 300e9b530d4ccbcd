"""The neuron field: points in the space of the stream, each with a value and a reach.

d_n = |x - p_n|;  tau_n = s_n t (|theta_n| + 0.1);  l_n = beta_n - d_n / tau_n
a = softmax(l);  y = sum_n a_n v_n

The published field divides by sum_n exp(l_n) + 1e-8: that is a softmax in which one more slot has
the logit ln 1e-8 and the value 0, and it is computed so, in logarithms.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.contract import Choice, Codes, Edit

NULL_LOGIT = math.log(1e-8)
WIDTH_FLOOR = 0.1

Width = Literal["abs", "softplus"]


class NeuronField(nn.Module):
    """Room for `capacity` neurons, of which those that are `alive` take part.

    Shapes never change, so neither do optimizers, DDP and compiled code: growth writes rows.

    Args:
        d_model: Width D.
        capacity: Rows; at most so many neurons.
        founders: Neurons at the start.
        position_std: Of the first positions, a coordinate.
        width: tau from theta: |theta| + 0.1, or 0.1 + softplus(theta).
        width_init: First tau less 0.1.
        null_slot: Whether there is the published slot without a value.
        learned_mass: Whether beta is trained (else 0).
        num_codes: Neurons that are named at a position.

    Raises:
        ValueError: If there are more founders or named neurons than room.
    """

    positions: Tensor
    values: Tensor
    alive: Tensor
    frozen: Tensor
    birth: Tensor
    parent: Tensor
    scale: Tensor
    rate: Tensor
    reach: Tensor

    def __init__(
        self,
        d_model: int,
        capacity: int,
        founders: int,
        *,
        position_std: float = 0.5,
        width: Width = "softplus",
        width_init: float = 0.5,
        null_slot: bool = False,
        learned_mass: bool = True,
        num_codes: int = 4,
    ) -> None:
        super().__init__()
        if not 0 < founders <= capacity:
            raise ValueError(f"model.founders must lie in 1..capacity ({capacity}), got {founders}")
        if not 0 < num_codes <= founders:
            raise ValueError(
                f"model.num_codes must lie in 1..founders ({founders}), got {num_codes}"
            )
        self.width_kind: Width = width
        self.null_slot = null_slot
        self.num_codes = num_codes
        self.positions = nn.Parameter(position_std * torch.randn(capacity, d_model))
        self.values = nn.Parameter(0.02 * torch.randn(capacity, d_model))
        start = width_init if width == "abs" else math.log(math.expm1(width_init))
        self.width = nn.Parameter(torch.full((capacity,), start))
        mass = torch.zeros(capacity)
        if learned_mass:
            self.log_mass = nn.Parameter(mass)
        else:
            self.register_buffer("log_mass", mass)
        alive = torch.arange(capacity) < founders
        self.register_buffer("alive", alive)
        self.register_buffer("frozen", torch.zeros(capacity, dtype=torch.bool))
        self.register_buffer("birth", torch.zeros(capacity, dtype=torch.int64))
        self.register_buffer("parent", torch.full((capacity,), -1, dtype=torch.int64))
        self.register_buffer("scale", torch.ones(capacity))
        self.register_buffer("rate", alive.float())
        self.register_buffer("reach", torch.ones(()))

    @property
    def capacity(self) -> int:
        return len(self.alive)

    def row_parameters(self) -> tuple[nn.Parameter, ...]:
        """Everything that is trained, a neuron a row."""
        return tuple(self.parameters(recurse=False))

    def shrink(self) -> None:
        """Give up the room that no neuron lives in."""
        kept = self.alive.clone()
        for name, value in list(self.named_parameters(recurse=False)):
            setattr(self, name, nn.Parameter(value.detach()[kept]))
        for name, value in list(self.named_buffers(recurse=False)):
            if value.ndim:
                setattr(self, name, value[kept])
        row = kept.cumsum(0) - 1  # parents are rows
        self.parent = torch.where(self.parent < 0, self.parent, row[self.parent])

    def tau(self) -> Float[Tensor, " capacity"]:
        """Distance over which a neuron's weight falls by e, fp32."""
        theta = self.width.float()
        own = theta.abs() if self.width_kind == "abs" else F.softplus(theta)
        return (own + WIDTH_FLOOR) * self.scale * self.reach

    def logits(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch capacity"]:
        """log_mass - distance / tau, fp32; -inf where nothing lives."""
        logits = self.log_mass.float() - self.distances(x) / self.tau()
        return logits.masked_fill(~self.alive, -torch.inf)

    def distances(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch capacity"]:
        """Euclidean, fp32, with gradient 0 at 0."""
        with torch.autocast(x.device.type, enabled=False):
            x, p = x.float(), self.positions.float()
            squared = x.square().sum(-1, keepdim=True) + p.square().sum(-1) - 2 * x @ p.T
            near = squared <= 1e-12
            return squared.masked_fill(near, 1.0).sqrt().masked_fill(near, 0.0)

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        edit: Edit | None = None,
        positions: Int[Tensor, " pos"] | None = None,
        codes: bool = False,
    ) -> tuple[Float[Tensor, "batch pos d_model"], Codes | None]:
        """What the field adds, and the neurons of largest weight if `codes` asks for them.

        An edit exchanges neurons: the weight of a named one goes to the value of the other.
        """
        logits = self.logits(x)
        weights = self._normalised(logits)
        y = weights.to(self.values.dtype) @ self.values
        if edit is None and not codes:
            return y.to(x.dtype), None
        choice = Choice.of_best(logits, self.num_codes, positions)
        chosen = choice.indices
        shares = weights.gather(-1, chosen)
        if edit is not None:
            wanted = edit(choice)
            moved = self.values[wanted] - self.values[chosen]
            y = y + (shares[..., None].to(moved.dtype) * moved).sum(-2)
            chosen = wanted
        found = Codes(
            chosen, self.capacity, shared=True, weights=shares.detach(), entropy=_entropy(weights)
        )
        return y.to(x.dtype), found

    def mass(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """sum_n exp(l_n): beside it the published guard is 1e-8."""
        return self.logits(x).logsumexp(-1).exp()

    def _normalised(
        self, logits: Float[Tensor, "*batch capacity"]
    ) -> Float[Tensor, "*batch capacity"]:
        if not self.null_slot:
            return logits.softmax(-1)
        return F.pad(logits, (0, 1), value=NULL_LOGIT).softmax(-1)[..., :-1]


def _entropy(weights: Tensor) -> Tensor:
    """In nats."""
    weights = weights.detach()
    return -(weights * weights.clamp(min=1e-30).log()).sum(-1)
