"""The kernel of `largest`: a row stays in registers, and its bits are found from the first on."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _kth_largest(x, k, out, vocab, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    value = tl.load(x + row * vocab + column, column < vocab, float("-inf"))
    bits = value.to(tl.int32, bitcast=True)
    # In this order of int32 greater numbers have greater keys
    key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)
    wanted = tl.load(k)
    least = wanted * 0 - 2147483648
    for bit in range(32):
        higher = least + (wanted * 0 + 2147483648 >> bit)
        enough = tl.sum((key >= higher).to(tl.int32), 0) >= wanted
        least = tl.where(enough, higher, least)
    found = least.to(tl.int32)
    found = tl.where(found < 0, found ^ 0x7FFFFFFF, found)
    tl.store(out + row, found.to(tl.float32, bitcast=True))


def kth_largest_triton(x: Tensor, k: Tensor) -> Tensor:
    """`largest.kth_largest` on a GPU."""
    x, vocab = x.contiguous(), x.shape[-1]
    out = torch.empty(*x.shape[:-1], 1, dtype=x.dtype, device=x.device)
    if out.numel():
        width = triton.next_power_of_2(vocab)
        _kth_largest[(out.numel(),)](x, k, out, vocab, WIDTH=width, num_warps=max(1, width // 1024))
    return out
