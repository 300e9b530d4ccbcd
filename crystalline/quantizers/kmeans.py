"""Lloyd's k-means, for codes that start where the data is."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from crystalline.quantizers.search import nearest


def kmeans(
    points: Float[Tensor, "n d"],
    k: int,
    *,
    iterations: int = 10,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "k d"]:
    """Centroids of `points`; an empty cluster moves to the point that is worst served.

    Starts from k different points where there are as many, so that k >= the number of different
    points gives zero error. Fewer points than k: the rest are copies with small noise.

    Args:
        points: Any floating dtype, treated as fp32.
        k: Number of centroids.
        iterations: Lloyd steps.
        generator: CPU generator; decides the starting points.

    Returns:
        fp32 centroids on the device of `points`.
    """
    points = points.detach().float()
    centroids = _start(points, k, generator)
    for _ in range(iterations):
        owner = nearest(points, centroids)
        sizes = torch.zeros(k, device=points.device).index_add_(
            0, owner, torch.ones_like(owner, dtype=torch.float32)
        )
        sums = torch.zeros_like(centroids).index_add_(0, owner, points)
        error = (points - centroids[owner]).square().sum(-1)
        means = sums / sizes.clamp(min=1)[:, None]
        empty = (sizes == 0).nonzero().flatten()
        worst = error.topk(min(len(empty), len(points))).indices
        worst = worst[error[worst] > 0]
        means[empty] = centroids[empty]
        means[empty[: len(worst)]] = points[worst]
        centroids = means
    return centroids


def _start(
    points: Float[Tensor, "n d"], k: int, generator: torch.Generator | None
) -> Float[Tensor, "k d"]:
    order = torch.randperm(len(points), generator=generator)
    pool = points[order[: 4 * k].to(points.device)]
    # Equal points (repeated tokens early in training) would make twin centroids.
    distinct, inverse = torch.unique(pool, dim=0, return_inverse=True)
    first = torch.full((len(distinct),), len(pool), device=points.device)
    first = first.scatter_reduce(0, inverse, torch.arange(len(pool), device=points.device), "amin")
    start = pool[first.sort().values[:k]]
    if len(start) == k:
        return start.clone()
    if len(pool) < len(points):  # a pool of few values hides others further on
        start = torch.unique(points, dim=0)[:k]
    copies = start[torch.arange(k - len(start), device=points.device) % len(start)]
    scale = 1e-3 * points.std().nan_to_num(1.0).clamp(min=1e-6)
    noise = torch.randn(copies.shape, generator=generator).to(points.device) * scale
    return torch.cat([start, copies + noise])
