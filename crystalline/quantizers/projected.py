"""Quantizers that map vectors to the width of their codes, code them, and map them back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crystalline.contract import Edit
from crystalline.quantizers.codebook import Codebook, QuantizerOutput


class ProjectedCodebook(Codebook):
    """`as_output(code(project(x)))`, of which the middle meets no padding in training."""

    def forward(
        self,
        x: Float[Tensor, "batch pos d_input"],
        override: Edit | None = None,
        positions: Int[Tensor, " pos"] | None = None,
        real: Bool[Tensor, "batch pos"] | None = None,
    ) -> QuantizerOutput:
        """Replace every vector of `x` by codes.

        Args:
            x: Vectors.
            override: Edits the choice before the lookup.
            positions: Of `x`, for `override`; None for 0, 1, 2, ...
            real: False at padding, which is neither learned from nor counted in training, and what
                leaves there means nothing; None: there is none.
        """
        target = self.project(x)
        code = partial(self.code, override=override, positions=positions)
        with torch.autocast(x.device.type, enabled=False):
            if real is None or override is not None or not self.training:
                coded = code(target)
            else:
                coded = _of_real(code, target, real)
        return QuantizerOutput(
            self.as_output(coded.quantized).to(x.dtype), coded.indices, coded.losses
        )

    @abstractmethod
    def code(
        self,
        target: Float[Tensor, "batch pos codebook_dim"],
        override: Edit | None,
        positions: Int[Tensor, " pos"] | None,
    ) -> QuantizerOutput:
        """What `forward` does in the width of the codes."""


def _of_real(
    code: Callable[[Float[Tensor, "batch pos codebook_dim"]], QuantizerOutput],
    target: Float[Tensor, "batch pos codebook_dim"],
    real: Bool[Tensor, "batch pos"],
) -> QuantizerOutput:
    """`code` of the real vectors alone; if none is, of the first.

    Only the choice meets another number of rows than there are: matrix products before and after it
    round a vector alike, whatever else is real.
    """
    flat = target.flatten(0, 1)
    rows = real.flatten().nonzero()[:, 0]
    if not len(rows):
        rows = rows.new_zeros(1)
    found = code(flat[rows][:, None])

    def spread(values: Tensor) -> Tensor:
        whole = values.new_zeros(len(flat), values.shape[-1])
        return whole.index_copy(0, rows, values[:, 0]).unflatten(0, real.shape)

    return QuantizerOutput(spread(found.quantized), spread(found.indices), found.losses)
