"""Residual coding as one operator, opaque to torch.compile, and the gradients of its losses.

With r_l the residual of level l and c_l the code that it chose, both losses are the mean of
(c_l - r_l)**2 over n points, L levels and d channels, so

    d codebook / d c = 2 / (n L d) (count(c) c - sum of the r that chose c)
    d commitment / d x = 2 / (n L d) sum over l of r_{l+1},  r_{l+1} = r_l - c_l

and the statistics that running means need are all that the codes' gradient needs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crystalline.layers.kernels import runs_triton
from crystalline.quantizers.search import nearest


def applies(points: Tensor, codes: Tensor) -> bool:
    """Whether the fused operator takes these tensors."""
    if points.dtype != torch.float32 or codes.dtype != torch.float32 or len(points) == 0:
        return False
    return points.device.type == "cpu" or runs_triton(points)


@torch.library.custom_op(
    "crystalline::residual_code",
    mutates_args=(),
    schema="(Tensor points, Tensor codes, bool cosine, bool statistics)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def residual_code(
    points: Tensor, codes: Tensor, cosine: bool, statistics: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Indices, quantized, loss, counts, sums; without `statistics` the last two are empty."""
    levels, size, _ = codes.shape
    residual = points
    quantized = torch.zeros_like(points)
    indices = torch.empty(len(points), levels, dtype=torch.int64)
    counts = torch.zeros(levels if statistics else 0, size, dtype=torch.int64)
    sums = torch.zeros_like(codes[: len(counts)])
    error = points.new_zeros(())
    for level, book in enumerate(codes):
        index = nearest(residual, book, cosine=cosine)
        indices[:, level] = index
        if statistics:
            counts[level] = torch.bincount(index, minlength=size)
            sums[level].index_add_(0, index, residual)
        quantized += book.index_select(0, index)
        residual = points - quantized
        error += residual.square().sum()
    loss = error / (points.numel() * levels)
    return indices, quantized, loss, counts, sums


@residual_code.register_kernel("cuda")
def _(points: Tensor, codes: Tensor, cosine: bool, statistics: bool) -> tuple[Tensor, ...]:
    from crystalline.quantizers.kernels.residual_triton import residual_code_triton

    return residual_code_triton(points, codes, cosine, statistics)


@residual_code.register_fake
def _(points: Tensor, codes: Tensor, cosine: bool, statistics: bool) -> tuple[Tensor, ...]:
    levels, size, width = codes.shape
    counted = levels if statistics else 0
    return (
        points.new_empty(len(points), levels, dtype=torch.int64),
        torch.empty_like(points, memory_format=torch.contiguous_format),
        points.new_empty(()),
        points.new_empty(counted, size, dtype=torch.int64),
        codes.new_empty(counted, size, width),
    )


@torch.library.custom_op(
    "crystalline::residual_tails",
    mutates_args=(),
    schema="(Tensor points, Tensor codes, Tensor indices, Tensor scale) -> Tensor",
)
def residual_tails(points: Tensor, codes: Tensor, indices: Tensor, scale: Tensor) -> Tensor:
    """`scale` times the sum over levels of r_{l+1}: L x - sum over l of (L - l) c_l."""
    levels = len(codes)
    tails = points * levels
    for level, book in enumerate(codes):
        tails.sub_(book.index_select(0, indices[:, level]), alpha=levels - level)
    return tails.mul_(scale)


@residual_tails.register_kernel("cuda")
def _(points: Tensor, codes: Tensor, indices: Tensor, scale: Tensor) -> Tensor:
    from crystalline.quantizers.kernels.residual_triton import residual_tails_triton

    return residual_tails_triton(points, codes, indices, scale)


@residual_tails.register_fake
def _(points: Tensor, codes: Tensor, indices: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(points, memory_format=torch.contiguous_format)


class CodebookLoss(torch.autograd.Function):
    """Hands `loss` on; its gradient reaches the codes alone."""

    @staticmethod
    def forward(
        ctx: Any, codes: Tensor, loss: Tensor, counts: Tensor, sums: Tensor, n: int
    ) -> Tensor:
        ctx.save_for_backward(codes, counts, sums)
        ctx.scale = 2 / (n * codes.shape[0] * codes.shape[2])
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        codes, counts, sums = ctx.saved_tensors
        pull = (counts[..., None] * codes - sums) * (gradient * ctx.scale)
        return pull, None, None, None, None


class CommitmentLoss(torch.autograd.Function):
    """Hands `loss` on; its gradient reaches the points alone."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, loss: Tensor, codes: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(points, codes, indices)
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        points, codes, indices = ctx.saved_tensors
        scale = gradient * (2 / (points.numel() * len(codes)))
        return residual_tails(points, codes, indices, scale), None, None, None
