"""Operations to choose from, and how one chooses: mixed, or drawn with Gumbel noise (spec 3.7)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crystalline.models.vocab_space.blocks import Scheduled, normal, rms

OPERATIONS = {
    "identity": lambda x: x,
    "negate": torch.neg,
    "abs": torch.abs,
    "square": torch.square,
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}

Weights = Float[Tensor, "*axes ops"]


def select(
    logits: Float[Tensor, "*axes ops"],
    how: str,
    sampled: bool,
    temperature: Float[Tensor, ""] | float = 1.0,
) -> Weights:
    """Weights of the choices along the last axis: fp32, at least 0, with sum 1.

    With "gumbel_hard" one of them is 1 and the gradient is that of the soft weights
    (straight-through; Jang et al. 2017, arXiv:1611.01144).

    Args:
        logits: Of the choices; each row draws noise of its own.
        how: "soft" softmax(logits / temperature), never with noise; "gumbel_soft" the same of noisy
            logits; "gumbel_hard" the largest of them alone.
        sampled: Whether the Gumbel selections draw noise.
        temperature: Above 0.
    """
    scores = logits.float()
    if sampled and how != "soft":
        # -log(-log u), u uniform: the negative log of an exponential variable.
        scores = scores - torch.empty_like(scores).exponential_().clamp(min=1e-20).log()
    soft = (scores / temperature).softmax(-1)
    if how != "gumbel_hard":
        return soft
    hard = F.one_hot(scores.argmax(-1), scores.shape[-1]).to(soft.dtype)
    return hard + (soft - soft.detach())


class Selector(Scheduled):
    """`select` as the switches say, at a temperature that goes from one value to another.

    Args:
        how: Switch `selection`.
        sampled_evaluation: Switch: "yes" draws in evaluation too.
        temperature: In the first round and, reached in equal steps, in the last.

    Raises:
        ValueError: If a temperature is not above 0.
    """

    temperature: Float[Tensor, ""]

    def __init__(
        self, how: str, sampled_evaluation: str, temperature: Sequence[float] = (1.0, 1.0)
    ) -> None:
        super().__init__()
        if len(temperature) != 2 or min(temperature) <= 0:
            raise ValueError(
                f"model.temperature must be two numbers above 0, got {list(temperature)}"
            )
        self.how = how
        self.sampled_evaluation = sampled_evaluation == "yes"
        self.first, self.last = temperature
        self.register_buffer("temperature", torch.tensor(float(self.first)))

    def begin_round(self, progress: float) -> None:
        """Follow the schedule of the temperature."""
        self.temperature.fill_(self.first + (self.last - self.first) * min(1.0, progress))

    def forward(self, logits: Float[Tensor, "*axes ops"]) -> Weights:
        sampled = self.training or self.sampled_evaluation
        return select(logits, self.how, sampled, self.temperature)

    def without_noise(self, logits: Float[Tensor, "*axes ops"]) -> Weights:
        """The weights, had nothing been drawn."""
        return select(logits, self.how, False, self.temperature)


class OpBank(nn.Module):
    """Sum over o of weight_o phi_o(h E_o + e_o), (..., width) to (..., width).

    Args:
        operations: Names phi_o, of `OPERATIONS`.
        width: Of what goes in and comes out.
        bias: Whether there are e_o, zeros at the start.
        unit: Whether each operation's result is brought to root mean square 1 before it is mixed:
            else those that square are as unbounded as what they are given.
    """

    def __init__(
        self, operations: Sequence[str], width: int, *, bias: bool, unit: bool = False
    ) -> None:
        super().__init__()
        self.operations = list(operations)
        self.maps = normal(len(self.operations), width, width)
        self.biases = nn.Parameter(torch.zeros(len(self.operations), width)) if bias else None
        self.unit = unit

    def forward(
        self, h: Float[Tensor, "batch pos width"], weights: Weights
    ) -> Float[Tensor, "batch pos width"]:
        """The mixture; `weights` are those of each position, or (ops,) of all."""
        inputs = h @ self.maps.transpose(0, 1).flatten(1)  # all operations in one product
        if self.biases is not None:
            inputs = inputs + self.biases.flatten()
        mixed = torch.zeros_like(h)
        for index, (name, x) in enumerate(
            zip(self.operations, inputs.chunk(len(self.operations), -1), strict=True)
        ):
            result = OPERATIONS[name](x)
            mixed = mixed + weights[..., index, None] * (rms(result) if self.unit else result)
        return mixed
