"""Finite scalar quantization (Mentzer et al. 2023, arXiv:2309.15505): codes on a grid."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from crystalline.contract import Choice, Edit
from crystalline.layers.precision import at_least_fp32
from crystalline.quantizers.codebook import QuantizerOutput
from crystalline.quantizers.projected import ProjectedCodebook
from crystalline.quantizers.search import nearest
from crystalline.quantizers.whitener import Whitener


class ScalarQuantizer(ProjectedCodebook):
    """Maps x to a few channels, squashes each into [-1, 1] and rounds it to one of its values.

    The grid does not learn, so no code can be left behind, and there is neither a codebook nor a
    commitment loss. Channels are whitened by what they were in past rounds before they are
    squashed: however small or alike the differences between inputs become, they fill the grid.

    Args:
        d_model: Width of the output, and of the input unless `d_input` says otherwise.
        levels: Values of each channel; their product is the number of codes K.
        d_input: Width of the input.

    Raises:
        ValueError: If a channel has fewer than two values.
    """

    maintained = False
    sizes: Int[Tensor, " channel"]
    places: Int[Tensor, " channel"]
    """What one step of a channel is worth in the index; the first channel counts fastest."""

    def __init__(
        self, d_model: int, levels: Sequence[int] = (8, 5, 5, 5), *, d_input: int | None = None
    ) -> None:
        levels = list(levels)
        if not levels or min(levels) < 2:
            raise ValueError(f"levels must be two or more values a channel, got {levels}")
        super().__init__(math.prod(levels), len(levels), update="frozen")
        self.whitener = Whitener(len(levels))
        self.project_in = nn.Linear(d_input or d_model, len(levels), bias=False)
        self.project_out = nn.Linear(len(levels), d_model, bias=False)
        self.register_buffer("sizes", torch.tensor(levels), persistent=False)
        places = torch.tensor([1, *levels[:-1]]).cumprod(0)
        self.register_buffer("places", places, persistent=False)
        steps = self._steps(torch.arange(self.codebook_size))
        self.codes.data = self._values(steps)[None]

    def _steps(self, index: Int[Tensor, "*axes"]) -> Int[Tensor, "*axes channel"]:
        return index[..., None] // self.places % self.sizes

    def _values(self, steps: Tensor) -> Float[Tensor, "*axes channel"]:
        return 2 * steps.float() / (self.sizes - 1) - 1

    def project(self, x: Tensor) -> Float[Tensor, "*axes channel"]:
        return at_least_fp32(self.project_in(x))

    def _squashed(self, z: Float[Tensor, "*axes channel"]) -> Float[Tensor, "*axes channel"]:
        """Near [-1, 1]: for normal inputs a channel's values are equally likely."""
        # The gradient skips the division, which would make it huge where inputs hardly differ.
        z = z + (self.whitener(z) - z).detach()
        # The error function makes a standard normal channel uniform, wide enough for the cells
        # at the ends to be whole.
        return torch.erf(z / math.sqrt(2)) * self.sizes / (self.sizes - 1)

    def code(
        self,
        target: Float[Tensor, "batch pos channel"],
        override: Edit | None,
        positions: Int[Tensor, " pos"] | None,
    ) -> QuantizerOutput:
        squashed = self._squashed(target)
        with torch.no_grad():
            steps = ((squashed + 1) * (self.sizes - 1) / 2).round().clamp(min=0)
            steps = torch.minimum(steps, self.sizes - 1).long()
            indices = (steps * self.places).sum(-1, keepdim=True)
            if self.training:
                flat = indices.flatten()
                self.round_counts[0].index_add_(0, flat, torch.ones_like(flat))
            if override is not None:
                if positions is None:
                    positions = torch.arange(target.shape[1], device=target.device)

                def without(banned: Bool[Tensor, "1 codebook_size"]) -> Tensor:
                    points = squashed.flatten(0, -2)
                    chosen = nearest(points, self.codes[0], banned=banned[0])
                    return chosen.view(*target.shape[:-1], 1)

                indices = override(Choice(indices, positions, without))
            rounded = self.lookup(indices).sum(-2)
        return QuantizerOutput(squashed + (rounded - squashed).detach(), indices, {})

    def as_output(self, code: Float[Tensor, "*axes channel"]) -> Float[Tensor, "*axes d_model"]:
        return self.project_out(code)

    def residuals(self, x: Tensor) -> Iterator[tuple[int, Float[Tensor, "n channel"]]]:
        with torch.no_grad():
            yield 0, self._squashed(self.project(x)).flatten(0, -2)

    @torch.no_grad()
    def end_round(self, skip: Bool[Tensor, ""]) -> None:
        super().end_round(skip)
        self.whitener.end_round(skip)

    def num_code_values(self) -> int:
        """None: the grid follows from its sizes."""
        return 0
