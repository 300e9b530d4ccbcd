"""The kernels of `taps`. Sums are in fp32 and in a fixed order, so calls repeat bit for bit."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TIMES, WORDS = 64, 64
"""Tile of the signal that a program holds."""


@triton.jit
def _filtered(
    x, taps, bias, gates, y,
    length, vocab, width: tl.constexpr,
    GATED: tl.constexpr, TIMES: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(2).to(tl.int64) * length  # of the sequence
    t = tl.program_id(1) * TIMES + tl.arange(0, TIMES)
    v = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    inside = (t < length)[:, None] & (v < vocab)[None, :]
    total = tl.zeros((TIMES, WORDS), tl.float32)
    total += tl.load(bias + v, v < vocab, 0.0).to(tl.float32)[None, :]
    for i in range(width):
        s = t - (width - 1) + i
        seen = tl.load(
            x + (start + s)[:, None] * vocab + v[None, :], inside & (s >= 0)[:, None], 0.0
        ).to(tl.float32)
        if GATED:
            gate = tl.load(gates + (start + t) * width + i, t < length, 0.0)
            seen *= gate.to(tl.float32)[:, None]
        total += seen * tl.load(taps + i * vocab + v, v < vocab, 0.0).to(tl.float32)[None, :]
    tl.store(y + (start + t)[:, None] * vocab + v[None, :], total, inside)


@triton.jit
def _of_signal(
    dy, taps, gates, dx,
    length, vocab, width: tl.constexpr,
    GATED: tl.constexpr, TIMES: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    """dx[s] = sum over i of gates[t, i] taps[i] dy[t] at t = s + (W - 1) - i."""
    start = tl.program_id(2).to(tl.int64) * length
    s = tl.program_id(1) * TIMES + tl.arange(0, TIMES)
    v = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    inside = (s < length)[:, None] & (v < vocab)[None, :]
    total = tl.zeros((TIMES, WORDS), tl.float32)
    for i in range(width):
        t = s + (width - 1) - i
        later = t < length
        asked = tl.load(
            dy + (start + t)[:, None] * vocab + v[None, :], inside & later[:, None], 0.0
        ).to(tl.float32)
        if GATED:
            gate = tl.load(gates + (start + t) * width + i, later, 0.0)
            asked *= gate.to(tl.float32)[:, None]
        total += asked * tl.load(taps + i * vocab + v, v < vocab, 0.0).to(tl.float32)[None, :]
    tl.store(dx + (start + s)[:, None] * vocab + v[None, :], total, inside)


@triton.jit
def _of_parameters(
    dy, x, taps, gates, parts, dgates,
    length, vocab, width: tl.constexpr,
    GATED: tl.constexpr, TIMES: tl.constexpr, WORDS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Of one stretch of a sequence: gradients of its gates, and its part of those of taps and bias.

    `parts` is (stretches, W + 1, V), the bias last.
    """
    start = tl.program_id(1).to(tl.int64) * length
    t = tl.program_id(0) * TIMES + tl.arange(0, TIMES)
    stretch = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    place = parts + stretch * (width + 1) * vocab
    column = tl.arange(0, WIDTH)
    of_gates = tl.zeros((TIMES, WIDTH), tl.float32)
    for first in range(0, vocab, WORDS):
        v = first + tl.arange(0, WORDS)
        wide = v < vocab
        inside = (t < length)[:, None] & wide[None, :]
        asked = tl.load(dy + (start + t)[:, None] * vocab + v[None, :], inside, 0.0).to(tl.float32)
        for i in range(width):
            s = t - (width - 1) + i
            seen = tl.load(
                x + (start + s)[:, None] * vocab + v[None, :], inside & (s >= 0)[:, None], 0.0
            ).to(tl.float32)
            seen *= asked
            if GATED:
                tap = tl.load(taps + i * vocab + v, wide, 0.0).to(tl.float32)
                heard = tl.sum(seen * tap[None, :], 1)
                of_gates += tl.where((column == i)[None, :], heard[:, None], 0.0)
                gate = tl.load(gates + (start + t) * width + i, t < length, 0.0)
                seen *= gate.to(tl.float32)[:, None]
            tl.store(place + i * vocab + v, tl.sum(seen, 0), wide)
        tl.store(place + width * vocab + v, tl.sum(asked, 0), wide)
    if GATED:
        at = (start + t)[:, None] * width + column[None, :]
        tl.store(dgates + at, of_gates, (t < length)[:, None] & (column < width)[None, :])


def filtered_triton(x: Tensor, taps: Tensor, bias: Tensor, gates: Tensor | None) -> Tensor:
    """`taps.filtered` on a GPU."""
    x, taps, bias = x.contiguous(), taps.contiguous(), bias.contiguous()
    gated = gates is not None
    gates = gates.contiguous() if gates is not None else taps
    y = torch.empty_like(x)
    _filtered[_tiles(x)](
        x, taps, bias, gates, y, x.shape[1], x.shape[2], len(taps),
        GATED=gated, TIMES=TIMES, WORDS=WORDS, num_warps=4,
    )  # fmt: skip
    return y


def filtered_backward_triton(
    dy: Tensor, x: Tensor, taps: Tensor, gates: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`taps.filtered_backward` on a GPU."""
    dy, x, taps = dy.contiguous(), x.contiguous(), taps.contiguous()
    gated = gates is not None
    gates = gates.contiguous() if gates is not None else taps
    (batch, length, vocab), width = x.shape, len(taps)
    shape = length, vocab, width
    dx = torch.empty_like(x)
    _of_signal[_tiles(x)](
        dy, taps, gates, dx, *shape, GATED=gated, TIMES=TIMES, WORDS=WORDS, num_warps=4
    )
    stretches = triton.cdiv(length, TIMES)
    parts = x.new_empty(batch * stretches, width + 1, vocab, dtype=torch.float32)
    dgates = torch.empty_like(gates) if gated else x.new_empty(0)
    _of_parameters[(stretches, batch)](
        dy, x, taps, gates, parts, dgates, *shape,
        GATED=gated, TIMES=TIMES, WORDS=WORDS, WIDTH=triton.next_power_of_2(width), num_warps=4,
    )  # fmt: skip
    dtaps, dbias = (part.sum(0).to(taps.dtype) for part in (parts[:, :-1], parts[:, -1]))
    return dx, dtaps, dbias, dgates


def _tiles(x: Tensor) -> tuple[int, int, int]:
    batch, length, vocab = x.shape
    return triton.cdiv(vocab, WORDS), triton.cdiv(length, TIMES), batch
