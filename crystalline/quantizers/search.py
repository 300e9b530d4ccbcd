"""Nearest-code search: the plain definition that every faster path is tested against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crystalline.layers.precision import at_least_fp32

# Entries of the (points x codes) score matrix held at once: 2 MiB stay in a CPU's cache, 256 MiB
# keep a GPU busy.
_MAX_SCORES = {"cpu": 1 << 19, "cuda": 1 << 26}


def nearest(
    points: Float[Tensor, "n d"],
    codes: Float[Tensor, "k d"],
    *,
    cosine: bool = False,
    banned: Bool[Tensor, " k"] | None = None,
) -> Int[Tensor, " n"]:
    """Index of the code nearest to each point, the lowest index among equals.

    Euclidean: argmin |x - c|^2 = argmax (x.c - |c|^2 / 2), one matrix product and no distances.
    Scores are fp32 whatever autocast and the matmul precision say: in less, close codes tie and
    indices flip.

    Args:
        points: Any floating dtype; rows go in chunks, so no large matrix of scores is kept.
        codes: The codebook.
        cosine: Compare directions alone; a code keeps its own length when it is looked up.
        banned: Codes that must not be chosen; one at least has to stay.

    Returns:
        int64 indices.
    """
    with exact_products(points):
        points, codes = at_least_fp32(points), at_least_fp32(codes)
        if cosine:
            codes, offset = F.normalize(codes, dim=-1), codes.new_zeros(len(codes))
        else:
            offset = -0.5 * codes.square().sum(-1)
        if banned is not None:
            offset = offset.masked_fill(banned, float("-inf"))
        rows = max(1, _MAX_SCORES.get(points.device.type, 1 << 26) // len(codes))
        parts = [_first_best(torch.addmm(offset, part, codes.T)) for part in points.split(rows)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@contextmanager
def exact_products(points: Tensor) -> Iterator[None]:
    """Matrix products of fp32 are of fp32 on the device of `points`, without autocast or TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(points.device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _first_best(scores: Float[Tensor, "n k"]) -> Int[Tensor, " n"]:
    """`argmax(-1)`, lowest index first, which a CPU does one number at a time; eats the scores."""
    if scores.device.type != "cpu":
        return scores.argmax(-1)
    size = scores.shape[-1]
    behind = scores.sub_(scores.amax(-1, keepdim=True)).sign_()  # 0 at the best, -1 elsewhere
    torch.sub(torch.arange(size, dtype=scores.dtype), behind, alpha=size, out=behind)
    return behind.amin(-1).long().clamp_(0, size - 1)  # NaN must give an index too
