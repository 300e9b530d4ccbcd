"""How much of a codebook is in use."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor


def usage(counts: Int[Tensor, "levels codebook_size"]) -> dict[str, float]:
    """Figures of one site from the choices of each of its books, averaged over books.

    `usage` is the share of codes chosen at all, `dead_fraction` = 1 - usage, `max_dead_fraction`
    that of the worst book; `entropy` (nats) is that of the choices, `perplexity` its exponential,
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


def usage_by_site(
    counts: Mapping[str, Int[Tensor, "levels codebook_size"]],
) -> dict[str, float]:
    """`codebook/<figure>/<site>` of every site, and `codebook/<figure>` as their mean.

    `codebook/max_dead_fraction` is that of the worst book of all. Nothing without sites.

    Raises:
        ValueError: If a book has no choices.
    """
    per_site = {site: usage(count) for site, count in counts.items()}
    if not per_site:
        return {}
    names = next(iter(per_site.values()))
    figures = {
        f"codebook/{name}": sum(found[name] for found in per_site.values()) / len(per_site)
        for name in names
    }
    worst = max(found["max_dead_fraction"] for found in per_site.values())
    figures["codebook/max_dead_fraction"] = worst
    for site, found in per_site.items():
        figures |= {f"codebook/{name}/{site}": value for name, value in found.items()}
    return figures
