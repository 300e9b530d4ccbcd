"""How a gradient passes a choice that has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Estimator = Literal["straight_through", "rotation", "none"]


class _StraightThrough(torch.autograd.Function):
    """No arithmetic at all, so the value is exactly the codes' and nothing is written twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Tensor) -> Tensor:
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None


def straight_through(
    x: Float[Tensor, "*axes d"], quantized: Float[Tensor, "*axes d"]
) -> Float[Tensor, "*axes d"]:
    """Value of `quantized`, Jacobian of the identity in x, nothing for the codes (Bengio 2013)."""
    return _StraightThrough.apply(x, quantized.detach())  # type: ignore[no-any-return]


def rotation(
    x: Float[Tensor, "*axes d"], quantized: Float[Tensor, "*axes d"]
) -> Float[Tensor, "*axes d"]:
    """Value of `quantized`; the gradient is turned and scaled as x is (Fifty et al. 2024).

    quantized = s R x with s = |q| / |x| and R the rotation in the plane of x and q, both held
    constant (arXiv:2410.06424, section 4.2): R x = x - 2 r (r.x) + 2 q' (x'.x), where x', q' are
    unit vectors and r = (x' + q') / |x' + q'|.
    """
    source = F.normalize(x, dim=-1).detach()
    target = F.normalize(quantized, dim=-1).detach()
    middle = F.normalize(source + target, dim=-1)
    scale = (
        quantized.norm(dim=-1, keepdim=True) / x.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    ).detach()
    in_middle, in_source = ((axis * x).sum(-1, keepdim=True) for axis in (middle, source))
    rotated = x - 2 * middle * in_middle + 2 * target * in_source
    turned = scale * rotated
    # Rounding (and opposite vectors, where no plane is defined) must not change the value.
    return turned + (quantized - turned).detach()


def none(
    x: Float[Tensor, "*axes d"], quantized: Float[Tensor, "*axes d"]
) -> Float[Tensor, "*axes d"]:
    """Value of `quantized`, no gradient: right where the codes are added to what they code."""
    return quantized.detach()


ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "straight_through": straight_through,
    "rotation": rotation,
    "none": none,
}
