"""Nearest-code search: the plain definition that every faster path is tested against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

# Entries of the (points x codes) score matrix held at once: 2 MiB stay in a CPU's cache, 256 MiB
# keep a GPU busy.
_MAX_SCORES = {"cpu": 1 << 19, "cuda": 1 << 26}


def nearest(
    points: Float[Tensor, "n d"], codes: Float[Tensor, "k d"], *, cosine: bool = False
) -> Int[Tensor, " n"]:
    """Index of the code nearest to each point, the lowest index among equals.

    Euclidean: argmin |x - c|^2 = argmax (x.c - |c|^2 / 2), one matrix product and no distances.
    Scores are fp32 whatever autocast says: in bf16 close codes tie and indices flip.

    Args:
        points: Any floating dtype; rows go in chunks, so no large matrix of scores is kept.
        codes: The codebook.
        cosine: Compare directions alone; a code keeps its own length when it is looked up.

    Returns:
        int64 indices.
    """
    with torch.autocast(points.device.type, enabled=False):
        points, codes = points.float(), codes.float()
        if cosine:
            codes, offset = F.normalize(codes, dim=-1), codes.new_zeros(len(codes))
        else:
            offset = -0.5 * codes.square().sum(-1)
        rows = max(1, _MAX_SCORES.get(points.device.type, 1 << 26) // len(codes))
        if len(points) <= rows:
            return torch.addmm(offset, points, codes.T).argmax(-1)
        parts = [torch.addmm(offset, part, codes.T).argmax(-1) for part in points.split(rows)]
        return torch.cat(parts)
