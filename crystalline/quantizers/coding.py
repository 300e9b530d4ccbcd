"""Residual coding: choose a code from every level and say what the choice costs.

`code_plainly` is the definition; `residual_coding` is what quantizers call and takes the fastest
path there is for its tensors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from crystalline.quantizers.kernels import fused
from crystalline.quantizers.search import nearest


class Coding(NamedTuple):
    """What residual coding gives for n points of width d, with L books of K codes."""

    indices: Int[Tensor, "n levels"]
    """int64; the code chosen at each level."""
    quantized: Float[Tensor, "n d"]
    """Sum of the chosen codes; no gradient."""
    codebook: Float[Tensor, ""]
    """Mean over points, levels and channels of (code - residual)**2; its gradient reaches codes."""
    commitment: Float[Tensor, ""]
    """The same number; its gradient reaches the points."""
    counts: Int[Tensor, "levels codebook_size"]
    """int64; how often each code was chosen."""
    sums: Float[Tensor, "levels codebook_size d"]
    """Sum of the residuals that chose each code; no gradient."""


def residual_coding(
    points: Float[Tensor, "n d"],
    codes: Float[Tensor, "levels codebook_size d"],
    *,
    cosine: bool = False,
    statistics: bool = True,
) -> Coding:
    """r_0 = x, q_l = code of book l nearest to r_l, r_{l+1} = r_l - q_l.

    fp32 tensors on a CPU, and on a GPU with Triton, take a fused path with the same results but for
    rounding; others take `code_plainly`. Equal scores go to the lowest index, and repeated calls
    are bit-equal, on every path.

    Args:
        points: x, of any floating dtype.
        codes: All books, of the same dtype.
        cosine: Choose by direction alone.
        statistics: Whether `counts`, `sums` and with them the gradient of the codes are wanted.
    """
    if not fused.applies(points, codes):
        return code_plainly(points, codes, cosine=cosine)
    fixed = points.detach(), codes.detach()
    indices, quantized, loss, counts, sums = fused.residual_code(*fixed, cosine, statistics)
    codebook = loss
    if statistics:
        codebook = fused.CodebookLoss.apply(codes, loss, counts, sums, len(points))
    commitment = fused.CommitmentLoss.apply(points, loss, fixed[1], indices)
    return Coding(indices, quantized, codebook, commitment, counts, sums)


def code_plainly(
    points: Float[Tensor, "n d"],
    codes: Float[Tensor, "levels codebook_size d"],
    *,
    cosine: bool = False,
) -> Coding:
    """The definition of `residual_coding`, in differentiable steps."""
    residual = points
    quantized = torch.zeros_like(points)
    indices, counts, sums, codebook, commitment = [], [], [], [], []
    for book in codes:
        index = nearest(residual.detach(), book.detach(), cosine=cosine)
        code = F.embedding(index, book)
        indices.append(index)
        counts.append(torch.zeros_like(book[:, 0], dtype=torch.int64))
        counts[-1].index_add_(0, index, torch.ones_like(index))
        sums.append(torch.zeros_like(book).index_add_(0, index, residual.detach()))
        codebook.append(F.mse_loss(code, residual.detach()))
        commitment.append(F.mse_loss(residual, code.detach()))
        quantized = quantized + code.detach()
        residual = points - quantized
    return Coding(
        torch.stack(indices, -1),
        quantized.detach(),
        torch.stack(codebook).mean(),
        torch.stack(commitment).mean(),
        torch.stack(counts),
        torch.stack(sums).detach(),
    )
