"""What a model costs, and the width at which another one costs the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from crystalline.contract import LanguageModel
from crystalline.quantizers.kernels import fused, top_k  # noqa: F401  (they define operators)

Build = Callable[[int, int], LanguageModel]
"""`build(d_model, d_mlp)`; a model on the meta device will do."""


@dataclass(frozen=True)
class Cost:
    """What training a model takes."""

    parameters: int
    """Codebooks counted, however they are trained."""
    training_flops: float
    """Floating-point operations per token of a forward and a backward pass."""


@dataclass(frozen=True)
class Width:
    """A model of wanted cost."""

    d_model: int
    d_mlp: int
    cost: Cost


def parameters(model: LanguageModel) -> int:
    """All of them, codebooks included."""
    return model.count_parameters()["parameters"]


def training_flops(model: LanguageModel) -> float:
    """Per token, of one full context: forward pass, all losses, backward pass.

    Counted are products of matrices, a multiplication and an addition each, as
    `torch.utils.flop_counter` does: every code that a search looks at and attention to all
    positions belong to them; lookups, norms, k-means and revival do not.

    Args:
        model: In training mode; on the CPU or, if it has no bottleneck, on the meta device.
    """
    device = next(model.parameters()).device
    tokens = torch.zeros(1, model.context_length, dtype=torch.int64, device=device)
    weights = model.loss_weights(1.0)
    counter = FlopCounterMode(display=False, custom_mapping=_SEARCHES)
    with counter, sdpa_kernel(SDPBackend.MATH):  # whose products the counter sees on every device
        output = model(tokens)
        output.total(output.logits.logsumexp(-1).mean(), weights).backward()
    return counter.get_total_flops() / tokens.numel()


def _top_k_flops(queries: tuple[int, ...], codes: tuple[int, ...], *_: Any, **__: Any) -> int:
    """Every query of a group with every code of its book."""
    return 2 * math.prod(queries) * codes[1]


def _residual_flops(points: tuple[int, ...], codes: tuple[int, ...], *_: Any, **__: Any) -> int:
    """Every residual of a point with every code of its level."""
    return 2 * points[0] * math.prod(codes)


_SEARCHES = {
    torch.ops.crystalline.top_k_select: _top_k_flops,
    torch.ops.crystalline.residual_code: _residual_flops,
}
"""Products inside our own operators, by the shapes of what they are given."""


def cost_of(model: LanguageModel) -> Cost:
    return Cost(parameters(model), training_flops(model))


def widened(
    build: Build, cost: Callable[[LanguageModel], float], target: float, multiple: int
) -> Width:
    """The model whose cost is nearest to `target`, its MLP about four times as wide as its stream.

    `d_model` is the largest at which d_mlp = 4 d_model does not cost too much; `d_mlp` makes up for
    the rest, since every hidden unit costs the same.

    Args:
        build: Its cost must grow with both widths.
        cost: `parameters` or `training_flops`.
        target: What it should be.
        multiple: Of which `d_model` must be one (of twice the heads, for rotary positions).
    """

    def fits(times: int) -> bool:
        return cost(build(times * multiple, 4 * times * multiple)) <= target

    low, high = 1, 2  # low fits, unless it is 1; high does not
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    d_model = low * multiple
    one, two = (cost(build(d_model, d_mlp)) for d_mlp in (1, 2))
    d_mlp = max(1, 1 + round((target - one) / (two - one)))
    return Width(d_model, d_mlp, cost_of(build(d_model, d_mlp)))
