"""Initial weights, as GPT-2 draws them (Radford et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def init_weights(
    model: nn.Module,
    *,
    residual: Iterable[nn.Linear],
    residual_std: float,
    std: float = 0.02,
) -> None:
    """N(0, std) for linear maps and embeddings, zero biases; norms and convolutions keep theirs.

    Args:
        model: All its parts are visited.
        residual: Maps that write to the residual stream: their number grows with depth, so they
            start smaller.
        residual_std: Standard deviation of those.
        std: Standard deviation of the others.
    """
    for part in model.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
    for linear in residual:
        nn.init.normal_(linear.weight, std=residual_std)
