"""Which codes of a book are needed least, and where a code is needed most.

Alternate fitting never moves a code past its neighbours: clusters that were given too many codes
keep them, and those without one stay without. The remedy is to move a code where that lowers the
total error (Patane and Russo 2001, enhanced LBG).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Misfit = Callable[[Float[Tensor, "n d"]], Float[Tensor, "n codes"]]
"""Error of every point with each code of a fixed set; the least is chosen."""

# Entries of a (points x codes) matrix held at once.
_MAX_VALUES = {"cpu": 1 << 20, "cuda": 1 << 26}


class Fit(NamedTuple):
    """How codes serve a sample of points."""

    chosen: Int[Tensor, " n"]
    error: Float[Tensor, " n"]
    """With the chosen code."""
    otherwise: Float[Tensor, " n"]
    """The least error with a code that is not movable; `error` if none is."""


def fit(
    misfit: Misfit, points: Tensor, codebook_size: int, movable: Bool[Tensor, " codes"] | None
) -> Fit:
    """Serve every point; in parts, so that no large matrix is kept."""
    found = []
    for part in points.split(_rows(points, codebook_size)):
        errors = misfit(part)
        error, chosen = errors.min(-1)
        otherwise = error
        if movable is not None:
            otherwise = errors.masked_fill_(movable, float("inf")).amin(-1)
        found.append((chosen, error, otherwise))
    return Fit(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def gains(
    served: Fit, points: Tensor, rows: Int[Tensor, " most"], misfit: Misfit, codebook_size: int
) -> Float[Tensor, " most"]:
    """By how much the error of all points but itself falls with a new code at each of `rows`.

    A point's own error would fall to 0 wherever the code went, so it tells nothing about the place.
    Of the rows that one code serves the best counts alone: two new codes would not gain twice.

    Args:
        served: How the codes serve `points`.
        points: The sample.
        rows: Which points could become codes.
        misfit: With codes at these rows.
        codebook_size: K.
    """
    step = _rows(points, len(rows))
    gain = torch.zeros_like(rows, dtype=served.error.dtype)
    for part, error in zip(points.split(step), served.error.split(step), strict=True):
        gain += (error[:, None] - misfit(part)).clamp(min=0).sum(0)
    gain = (gain - served.error[rows]).clamp(min=0)
    cells = served.chosen[rows]
    most = gain.new_zeros(codebook_size).scatter_reduce_(0, cells, gain, "amax")
    return torch.where(gain == most[cells], gain, 0)


def costs(served: Fit, movable: Bool[Tensor, " codebook_size"]) -> Float[Tensor, " codebook_size"]:
    """By how much the error of a code's points grows without it; infinite if it may not move.

    The points go to codes that may not move, so that no two moving codes count on each other.
    """
    more = served.otherwise - served.error
    cost = more.new_zeros(len(movable)).index_add_(0, served.chosen, more)
    return cost.masked_fill(~movable, float("inf"))


def _rows(points: Tensor, columns: int) -> int:
    return max(1, _MAX_VALUES.get(points.device.type, 1 << 26) // columns)
