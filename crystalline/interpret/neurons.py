"""The neuron control of code search (spec 9): do codes tell more than single coordinates do?

A neuron is a coordinate of the vector that a site reads, with a sign. Its threshold is set so that
it finds as many marked positions as the code; its precision there is the figure to beat (Tamkin et
al. 2023, arXiv:2310.17230, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crystalline.metrics.code_precision import Score


@dataclass(frozen=True)
class Neuron:
    """The most precise of all coordinates and signs at a given recall."""

    index: int
    sign: int
    """1: it fires at or above the threshold; -1: at or below."""
    threshold: float
    chosen: Score
    """On the first half, where threshold and neuron were chosen."""
    reported: Score
    """On the second half."""


class NeuronControl:
    """All neurons of a site.

    Args:
        vectors: What the site reads, on the CPU (`reading.read_inputs`).
        first: (P,) bool: the half on which thresholds are chosen.
    """

    def __init__(self, vectors: Float[Tensor, "pos d"], first: np.ndarray) -> None:
        self._first = torch.from_numpy(first)
        self._values = vectors.T[:, self._first].contiguous()
        self._sorted = self._values.sort(dim=1).values
        self._held_out = vectors.T[:, ~self._first]

    def best(self, wanted: np.ndarray, hits: int) -> Neuron:
        """The neuron of highest precision that finds as many wanted positions of the first half.

        Where values are equal it finds a few more. Of equal neurons the lowest index wins, and the
        positive sign.

        Args:
            wanted: (P,) bool, of all positions.
            hits: In [1, wanted positions of the first half].
        """
        marked = torch.from_numpy(wanted)
        chosen, held_out = marked[self._first], marked[~self._first]
        values = self._values[:, chosen]
        highest = values.kthvalue(values.shape[1] - hits + 1, dim=1).values
        lowest = values.kthvalue(hits, dim=1).values
        thresholds = torch.stack([highest, lowest], dim=1)
        found = torch.stack(
            [(values >= highest[:, None]).sum(1), (values <= lowest[:, None]).sum(1)], dim=1
        )
        precision = found.double() / self._fired(thresholds)
        index, side = divmod(int(precision.flatten().argmax()), 2)
        sign, threshold = 1 - 2 * side, thresholds[index, side]
        return Neuron(
            index,
            sign,
            float(threshold),
            _score(self._values[index], chosen, sign, threshold),
            _score(self._held_out[index], held_out, sign, threshold),
        )

    def _fired(self, thresholds: Float[Tensor, "d sides"]) -> Int[Tensor, "d sides"]:
        """Positions of the first half at or above the first threshold, at or below the second."""
        above, below = thresholds[:, :1].contiguous(), thresholds[:, 1:].contiguous()
        under = torch.searchsorted(self._sorted, above)
        return torch.cat(
            [
                self._sorted.shape[1] - under,
                torch.searchsorted(self._sorted, below, right=True),
            ],
            dim=1,
        )


def _score(values: Tensor, wanted: Tensor, sign: int, threshold: Tensor) -> Score:
    fires = values >= threshold if sign > 0 else values <= threshold
    return Score.of(int((fires & wanted).sum()), int(fires.sum()), int(wanted.sum()))
