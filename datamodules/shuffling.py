"""Text without order: the control that tells what a model owes to the order of its tokens."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

Places = Int[np.ndarray, "windows length"]


def shuffled(places: Places, keys: list[int], seed: int) -> Places:
    """Each window's places in an order of its own, the first one left where it is.

    Neighbouring windows share that first place, so every token is still scored once.

    Args:
        places: Indices into a stream of tokens.
        keys: A number for each window; the same number and seed give the same order.
        seed: Decides the orders.
    """
    rows = places.copy()
    for row, key in zip(rows, keys, strict=True):
        np.random.default_rng([seed, key]).shuffle(row[1:])
    return rows
