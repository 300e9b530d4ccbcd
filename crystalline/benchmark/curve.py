"""What became of a run, told by its losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

RISE = 1.05
"""Training losses that end this many times as high as they began have diverged."""
SPIKE = 1.2
"""A loss this many times the median of the five before it is a spike."""
SPIKES = 0.02
"""Share of losses, and at least two, that makes a run unstable."""
WORSE = 1.03
"""Validation that ends this many times as high as its best one has turned."""
GAP = 0.9
"""Training below this share of validation, once that has turned, is memory of the text."""
MARGIN_NATS = 0.05
"""What is not better than word frequencies by this much has learned nothing of contexts."""
GAIN = 0.005
"""A sixth of a run that lowers the loss by less than this share of it is a plateau."""


def status(train: Sequence[float], val: Sequence[float], unigram: float | None) -> str:
    """One word, by the first rule that holds.

    diverged: a loss is not a number, or training ends above its start (`RISE`, over tenths of the
    run). unstable: spikes after the first tenth (`SPIKE`, `SPIKES`). memorised: validation has
    turned (`WORSE`) and training ends far below it (`GAP`). stuck: validation ends no better than
    word frequencies (`MARGIN_NATS`). plateaued: the last sixth of training gains nothing on the one
    before (`GAIN`). descending: none of these.

    Args:
        train: Losses of logged rounds in order, nats; at least one.
        val: Losses of validations in order, nats; at least one.
        unigram: Validation loss of word frequencies; None where it is not known.
    """
    if not all(math.isfinite(loss) for loss in (*train, *val)):
        return "diverged"
    losses = np.asarray(train)
    tenth = max(1, len(losses) // 10)
    end = losses[-tenth:].mean()
    if end > RISE * losses[:tenth].mean():
        return "diverged"
    if _spikes(losses[tenth:]) >= max(2, SPIKES * len(losses)):
        return "unstable"
    if val[-1] > WORSE * min(val) and end < GAP * val[-1]:
        return "memorised"
    if unigram is not None and val[-1] > unigram - MARGIN_NATS:
        return "stuck"
    sixth = max(1, len(losses) // 6)
    before, last = losses[-2 * sixth : -sixth], losses[-sixth:]
    if len(before) and last.mean() > (1 - GAIN) * before.mean():
        return "plateaued"
    return "descending"


def _spikes(losses: np.ndarray) -> int:
    """Losses far above the five before them."""
    if len(losses) < 6:
        return 0
    before = np.lib.stride_tricks.sliding_window_view(losses[:-1], 5)
    return int((losses[5:] > SPIKE * np.median(before, axis=1)).sum())
