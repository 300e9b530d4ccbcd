"""Each word for a run, on curves that deserve it and on ones that just do not."""

import numpy as np
import pytest

from crystalline.benchmark.curve import status

FALL = list(2 + 4 * np.exp(-np.arange(100) / 60))  # still falling at the end
FLAT = [*FALL, *[FALL[-1]] * 100]


def spiked(times, height):
    losses = np.array(FALL)
    losses[np.linspace(20, 90, times).astype(int)] *= height
    return list(losses)


@pytest.mark.parametrize(
    ("train", "val", "unigram", "word"),
    [
        (FALL, [4.0, 3.0], 5.0, "descending"),
        (FALL, [4.0, 3.0], None, "descending"),
        (FLAT, [4.0, 3.0], 5.0, "plateaued"),
        (FLAT, [4.0, 3.0], 3.0, "stuck"),
        (FALL, [4.0, 3.0], 3.02, "stuck"),
        (FALL, [4.0, 3.0], 3.1, "descending"),
        (FALL, [2.9, 4.5], 5.0, "memorised"),
        (FALL, [2.79, 2.8], 5.0, "descending"),  # validation has hardly turned
        (FALL, [2.7, 2.82], 5.0, "descending"),  # and training is not below it
        (spiked(2, 1.5), [4.0, 3.0], 5.0, "unstable"),
        (spiked(1, 1.5), [4.0, 3.0], 5.0, "descending"),
        (spiked(9, 1.1), [4.0, 3.0], 5.0, "descending"),
        (FALL[::-1], [4.0, 5.0], 5.0, "diverged"),
        ([*FALL, float("nan")], [4.0], 5.0, "diverged"),
        (FALL, [4.0, float("inf")], 5.0, "diverged"),
        ([6.9, 6.93, 6.95], [6.93], 6.0, "stuck"),  # noise is no divergence
        ([6.9], [6.93], None, "descending"),
    ],
)
def test_words(train, val, unigram, word):
    assert status(train, val, unigram) == word
