"""How much of a codebook is in use."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


def usage(counts: Int[Tensor, "levels codebook_size"]) -> dict[str, float]:
    """Figures of one site from the choices of each of its books, averaged over books.

    `usage` is the share of codes chosen at all, `dead_fraction` = 1 - usage, `max_dead_fraction`
    that of the worst book; `entropy` (nats) is that of the choices and `perplexity` its exponential,
    the effective number of codes.

    Raises:
        ValueError: If a book has no choices.
    """
    total = counts.sum(-1, keepdim=True)
    if bool((total == 0).any()):
        raise ValueError("usage needs at least one choice in every book")
    share = counts.double() / total
    entropy = torch.special.entr(share).sum(-1)
    used = (counts > 0).double().mean(-1)
    return {
        "usage": float(used.mean()),
        "dead_fraction": float(1 - used.mean()),
        "max_dead_fraction": float(1 - used.min()),
        "perplexity": float(entropy.exp().mean()),
        "entropy": float(entropy.mean()),
    }
