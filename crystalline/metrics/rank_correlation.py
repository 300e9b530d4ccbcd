"""Do two orders agree, and could chance have done it? Spearman's rho with permutation tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float

_PERMUTATIONS = 10_000
_SLACK = 1e-12
"""Sums of the same numbers in another order are equal, whatever rounding says."""


def ranks(values: Sequence[float]) -> Float[np.ndarray, " n"]:
    """1 for the smallest; equal values share the mean of their ranks."""
    array = np.asarray(values, dtype=float)
    _, place, counts = np.unique(array, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[place]


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Rank correlation (Spearman 1904) in [-1, 1]; NaN where all values of one are equal.

    Raises:
        ValueError: If the lengths differ.
    """
    if len(x) != len(y):
        raise ValueError(f"as many values of one as of the other, got {len(x)} and {len(y)}")
    a, b = (part - part.mean() for part in (ranks(x), ranks(y)))
    scale = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale else math.nan


def trend_p(curves: Sequence[Sequence[float]], *, seed: int = 0) -> float:
    """Two-sided chance of so large a mean rho of value and place if places meant nothing.

    Every curve is permuted by itself, so that a curve is a draw, not each of its points.

    Args:
        curves: A value for each place, in their order; one curve a run.
        seed: Draws the permutations.
    """
    random = np.random.default_rng(seed)
    total = np.zeros(_PERMUTATIONS)
    observed = 0.0
    for curve in curves:
        values, places = ranks(curve), np.arange(len(curve), dtype=float)
        values, places = values - values.mean(), places - places.mean()
        scale = math.sqrt(float((values**2).sum() * (places**2).sum()))
        if not scale:
            return math.nan
        drawn = random.permuted(np.tile(values, (_PERMUTATIONS, 1)), axis=1)
        total += drawn @ places / scale
        observed += float(values @ places) / scale
    hits = int((np.abs(total) >= abs(observed) - _SLACK).sum())
    return (1 + hits) / (1 + _PERMUTATIONS)


def difference_p(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided exact chance of so large a difference of means if labels meant nothing.

    All ways to deal the values to two groups of these sizes are counted: meant for a few runs each.
    """
    values, count = np.asarray([*a, *b], dtype=float), len(a)
    if not len(a) or not len(b):
        return math.nan

    def difference(group: Sequence[int]) -> float:
        inside = np.zeros(len(values), dtype=bool)
        inside[list(group)] = True
        return abs(float(values[inside].mean() - values[~inside].mean()))

    observed = difference(range(count))
    deals = [difference(group) for group in combinations(range(len(values)), count)]
    return sum(deal >= observed - _SLACK for deal in deals) / len(deals)


def same_sign(values: Sequence[float]) -> float:
    """Share of values that have the commoner sign; 0 has none."""
    positive, negative = sum(v > 0 for v in values), sum(v < 0 for v in values)
    return max(positive, negative) / len(values) if values else math.nan
