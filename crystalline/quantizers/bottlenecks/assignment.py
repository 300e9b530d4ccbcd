"""The soft assignment behind a hard choice: what noise, surrogates and entropies need."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crystalline.quantizers.bottlenecks.chunked import ChunkedAssignment, draw_seed, largest


class Assignment(NamedTuple):
    """What n points do with K codes at temperature tau."""

    indices: Int[Tensor, "n k"]
    """int64; the k (or `slots`) largest of similarity / tau + noise, largest first."""
    surrogate: Float[Tensor, "n d"]
    """Sum of sigma_j c_j with sigma = min(1, k softmax(similarity / tau + noise)); its gradient
    reaches sigma, not the codes that it is summed from."""
    entropy: Float[Tensor, " n"]
    """Of p = softmax(similarity / tau), without noise, in nats."""
    mean: Float[Tensor, " codebook_size"]
    """p averaged over the points."""
    scores: Float[Tensor, "n k"]
    """similarity / tau + noise of `indices`; no gradient."""


def assign(
    scores: Float[Tensor, "n codebook_size"],
    noisy: Float[Tensor, "n codebook_size"],
    codes: Float[Tensor, "codebook_size d"],
    k: int,
    slots: int | None = None,
) -> Assignment:
    """The definition, for scores = similarity / tau, with and without noise, in memory.

    With `slots`, so many codes are listed instead of k.
    """
    sigma = (k * noisy.softmax(-1)).clamp(max=1)
    log_p = scores.log_softmax(-1)
    p = log_p.exp()
    indices = largest(noisy.detach(), slots or k)
    return Assignment(
        indices,
        sigma @ codes.detach(),
        -(p * log_p).sum(-1),
        p.mean(0),
        noisy.detach().gather(-1, indices),
    )


def assign_in_chunks(
    book: Float[Tensor, "codebook_size d"],
    unit_codes: Float[Tensor, "codebook_size d"],
    unit_points: Float[Tensor, "n d"],
    temperature: Float[Tensor, "#n 1"],
    k: int,
    *,
    noise: bool,
    detached: bool,
    slots: int | None = None,
    bias: Float[Tensor, "1 codebook_size"] | None = None,
) -> Assignment:
    """`assign` of similarity = unit_points @ unit_codes.T + bias, in fp32.

    With `detached`, the gradient of the surrogate leaves the points alone.

    Chunks of points are computed one after the other, and once more in the backward pass: no more
    than one chunk's scores are kept.
    """
    seed = draw_seed(book.device) if noise else None
    with torch.autocast(book.device.type, enabled=False):
        found: Any = ChunkedAssignment.apply(
            unit_points, unit_codes, book.detach(), temperature, bias, seed, k, slots or k, detached
        )
    return Assignment(*found)
