"""The k-th largest number of each row, for a k that a tensor holds, as one operator."""

from __future__ import annotations

import torch
from torch import Tensor

from crystalline.layers.kernels import runs_triton


@torch.library.custom_op(
    "crystalline::kth_largest", mutates_args=(), schema="(Tensor x, Tensor k) -> Tensor"
)
def kth_largest(x: Tensor, k: Tensor) -> Tensor:
    """(..., V) and k in [1, V], int64 of no axes, to (..., 1); no gradient.

    Since k is a tensor, rounds that were recorded as a CUDA graph follow it. On a GPU fp32 rows
    are not sorted: 32 counts find the number bit by bit.
    """
    if x.dtype == torch.float32 and runs_triton(x):
        from crystalline.layers.kernels.largest_triton import kth_largest_triton

        return kth_largest_triton(x, k)
    return x.sort(dim=-1, descending=True).values.index_select(-1, k.view(1) - 1)


@kth_largest.register_fake
def _(x: Tensor, k: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], 1)
