"""Scales of least squared error: a little less than what reaches the largest value.

Values beyond the last level are drawn to it, which costs less than finer steps save: for normal
values a tenth of the squared error with four bits, next to nothing with more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float32

SHRINK = np.arange(1.0, 0.5, -0.04, dtype=np.float32)
"""Shares of the full scale that are tried."""
_CHUNK = 2**20
"""Values at a time, which bounds the memory."""

Stored = Callable[[np.ndarray], np.ndarray]
"""A scale as it will be read back."""


def least_error(
    parts: Float32[np.ndarray, "parts length"],
    full: Float32[np.ndarray, " parts"],
    levels: int,
    stored: Stored,
) -> Float32[np.ndarray, " parts"]:
    """The scale of each part, `full` times one of `SHRINK`, as it is stored.

    Args:
        parts: Values that share a scale.
        full: Scales with which no value is clipped.
        levels: Integers are -levels..levels.
        stored: Rounds a scale to what the file holds.
    """
    found = np.empty_like(full)
    step = max(1, _CHUNK // max(1, parts.shape[1]))
    for start in range(0, len(parts), step):
        chunk = slice(start, start + step)
        candidates = (stored(full[chunk] * share) for share in SHRINK)
        found[chunk] = _best(parts[chunk], candidates, levels)
    return found


def _best(parts: np.ndarray, candidates: Iterable[np.ndarray], levels: int) -> np.ndarray:
    best = np.full(len(parts), np.inf, np.float32)
    found = np.zeros(len(parts), np.float32)
    for scale in candidates:
        difference = parts - rounded(parts, scale, levels) * scale[:, None]
        error = np.einsum("pl,pl->p", difference, difference)
        better = error < best
        best[better], found[better] = error[better], scale[better]
    return found


def rounded(
    parts: Float32[np.ndarray, "parts length"], scale: Float32[np.ndarray, " parts"], levels: int
) -> Float32[np.ndarray, "parts length"]:
    """Whole numbers in -levels..levels; 0 where the scale is."""
    steps = np.where(scale > 0, scale, np.inf)[:, None]
    return np.rint(parts / steps).clip(-levels, levels)
