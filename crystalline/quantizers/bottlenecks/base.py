"""What all bottlenecks share: one book, k codes a position, what is counted and what is lost."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crystalline.contract import Choice, Codes, Edit
from crystalline.quantizers.codebook import Codebook, Update

Aggregate = Literal["mean", "sum"]


@dataclass(frozen=True)
class BottleneckOutput:
    """What a bottleneck answers with."""

    quantized: Float[Tensor, "batch pos d_group"]
    codes: Codes
    """`entropy` is there when it was asked for."""
    losses: dict[str, Float[Tensor, ""]]
    """Empty in evaluation."""


class Bottleneck(Codebook):
    """A site of the contract whose positions choose k different codes of one book.

    Args:
        d_group: Width of what passes.
        codebook_size: K.
        num_codes_k: k, codes a position.
        aggregate: Codes leave as their "mean" or their "sum".
        cosine: Choose by direction alone; else by the inner product.
        update: See `Codebook`.

    Raises:
        ValueError: If k lies outside [1, K] or an option is unknown.
    """

    def __init__(
        self,
        d_group: int,
        codebook_size: int,
        num_codes_k: int,
        *,
        aggregate: Aggregate = "mean",
        cosine: bool = True,
        update: Update = "gradient",
    ) -> None:
        if not 1 <= num_codes_k <= codebook_size:
            raise ValueError(
                f"num_codes_k must lie in [1, {codebook_size}] (codebook_size), got {num_codes_k}"
            )
        if aggregate not in ("mean", "sum"):
            raise ValueError(f"aggregate must be mean or sum, got {aggregate!r}")
        super().__init__(codebook_size, d_group, cosine=cosine, update=update)
        self.num_codes_k = num_codes_k
        self.share = 1 / num_codes_k if aggregate == "mean" else 1.0

    @abstractmethod
    def forward(  # type: ignore[override]
        self,
        x: Float[Tensor, "batch pos d_group"],
        temperature: Float[Tensor, "#batch #pos"],
        *,
        override: Edit | None = None,
        positions: Int[Tensor, " pos"] | None = None,
        entropy: bool = False,
    ) -> BottleneckOutput:
        """The codes' sum in place of `x`; with `entropy`, also that of the whole assignment."""

    def residuals(self, x: Tensor) -> Iterator[tuple[int, Float[Tensor, "n d_group"]]]:
        with torch.no_grad():
            yield 0, self.project(x).flatten(0, -2)

    def note(self, inputs: Float[Tensor, "n d_group"], indices: Int[Tensor, "n k"]) -> None:
        """Count training choices for `end_round`."""
        chosen = indices.flatten()
        self.round_counts[0].index_add_(0, chosen, torch.ones_like(chosen))
        if self.average is not None:
            points = inputs.detach().repeat_interleave(indices.shape[-1], 0)
            self.average.round_sums[0].index_add_(0, chosen, points)

    def hard(self, indices: Int[Tensor, "*axes k"]) -> Float[Tensor, "*axes d_group"]:
        """What these codes leave as; differentiable in them, and in them alone."""
        return F.embedding(indices, self.codes[0]).sum(-2) * self.share

    def edited(
        self,
        indices: Int[Tensor, "batch pos k"],
        inputs: Float[Tensor, "batch pos d_group"],
        override: Edit,
        positions: Int[Tensor, " pos"] | None,
    ) -> Int[Tensor, "batch pos k"]:
        """What the edit makes of a choice."""
        if positions is None:
            positions = torch.arange(inputs.shape[1], device=inputs.device)
        return override(Choice(indices, positions, partial(self._without, inputs)))

    def similarities(self, points: Float[Tensor, "n d_group"]) -> Float[Tensor, "n codebook_size"]:
        """Of every point to every code, in fp32: cosines or inner products."""
        codes = F.normalize(self.codes[0], dim=-1) if self.cosine else self.codes[0]
        points = F.normalize(points, dim=-1) if self.cosine else points
        with torch.autocast(points.device.type, enabled=False):
            return points.float() @ codes.mT

    @torch.no_grad()
    def _without(
        self,
        inputs: Float[Tensor, "batch pos d_group"],
        banned: Bool[Tensor, "1 codebook_size"],
    ) -> Int[Tensor, "batch pos k"]:
        scores = self.similarities(inputs.flatten(0, -2)).masked_fill(banned, float("-inf"))
        order = scores.sort(dim=-1, descending=True, stable=True).indices
        return order[:, : self.num_codes_k].unflatten(0, inputs.shape[:-1])
