"""Nearest-code search: the plain definition that every faster path is tested against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

_MAX_SCORES = 1 << 26  # entries of the (points x codes) score matrix held at once, 256 MiB


def nearest(
    points: Float[Tensor, "n d"], codes: Float[Tensor, "k d"], *, cosine: bool = False
) -> Int[Tensor, " n"]:
    """Index of the code nearest to each point, the lowest index among equals.

    Euclidean: argmin |x - c|^2 = argmax (x.c - |c|^2 / 2), one matrix product and no distances.
    Scores are fp32 whatever autocast says: in bf16 close codes tie and indices flip.

    Args:
        points: Any floating dtype; rows are handled in chunks of at most 2**26 scores.
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
        rows = max(1, _MAX_SCORES // len(codes))
        if len(points) <= rows:
            return torch.addmm(offset, points, codes.T).argmax(-1)
        parts = [torch.addmm(offset, part, codes.T).argmax(-1) for part in points.split(rows)]
        return torch.cat(parts)
