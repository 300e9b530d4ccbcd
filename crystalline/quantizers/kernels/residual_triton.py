"""Residual coding in Triton: search, lookup, residual and statistics without a matrix of distances.

Scores are products of fp16 inputs (11 bits, as TF32, at twice its rate; rows and books are scaled
to magnitude 1 first, so nothing overflows) accumulated in fp32. They only nominate: the two best
codes of a point are compared by exact fp32 distances, so indices equal those of an fp32 search
unless three codes lie within the rounding of fp16.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _search(
    points, codes, half_codes, weights, offsets, scales,  # in
    half_rows, quantized, indices, errors,  # out; half_rows is scratch
    n, size, levels: tl.constexpr, width: tl.constexpr,
    ROWS: tl.constexpr, CODES: tl.constexpr, CHUNK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """All levels for ROWS points. score of code k = (r . c_k) weights[k] - offsets[k]."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = rows < n
    at = rows[:, None] * width
    chunk = tl.arange(0, CHUNK)
    error = tl.zeros((ROWS,), tl.float32)
    for level in range(levels):
        # Residual of this level, row by row scaled to magnitude 1, as fp16
        peak = tl.full((ROWS,), 1e-30, tl.float32)
        for start in range(0, width, CHUNK):
            d = start + chunk
            inside = live[:, None] & (d < width)[None, :]
            r = tl.load(points + at + d[None, :], inside, 0.0)
            if level > 0:
                r -= tl.load(quantized + at + d[None, :], inside, 0.0)
            peak = tl.maximum(peak, tl.max(tl.abs(r), 1))
        for start in range(0, width, CHUNK):
            d = start + chunk
            inside = live[:, None] & (d < width)[None, :]
            r = tl.load(points + at + d[None, :], inside, 0.0)
            if level > 0:
                r -= tl.load(quantized + at + d[None, :], inside, 0.0)
            tl.store(half_rows + at + d[None, :], (r / peak[:, None]).to(tl.float16), inside)
        tl.debug_barrier()  # other threads of this program read what was written

        # Two best codes by fp16 scores
        first = tl.full((ROWS,), float("-inf"), tl.float32)
        second = tl.full((ROWS,), float("-inf"), tl.float32)
        first_at = tl.zeros((ROWS,), tl.int32)
        second_at = tl.zeros((ROWS,), tl.int32)
        unscale = peak * tl.load(scales + level)
        for base in range(0, size, CODES):
            k = base + tl.arange(0, CODES)
            real = k < size
            book = (level * size + k).to(tl.int64)
            score = tl.zeros((ROWS, CODES), tl.float32)
            for start in tl.range(0, width, CHUNK, num_stages=STAGES):
                d = start + chunk
                a = tl.load(half_rows + at + d[None, :], live[:, None] & (d < width)[None, :], 0.0)
                b = tl.load(
                    half_codes + book[None, :] * width + d[:, None],
                    real[None, :] & (d < width)[:, None], 0.0,
                )  # fmt: skip
                score = tl.dot(a, b, score)
            offset = tl.load(offsets + level * size + k, real, float("inf"))
            score = score * unscale[:, None] - offset[None, :]
            top, top_at = tl.max(score, 1, return_indices=True)
            score = tl.where(tl.arange(0, CODES)[None, :] == top_at[:, None], float("-inf"), score)
            next_, next_at = tl.max(score, 1, return_indices=True)
            ahead = top > first
            loser = tl.where(ahead, first, top)
            loser_at = tl.where(ahead, first_at, base + top_at)
            runner = tl.where(ahead, next_, second)
            runner_at = tl.where(ahead, base + next_at, second_at)
            first = tl.where(ahead, top, first)
            first_at = tl.where(ahead, base + top_at, first_at)
            second = tl.maximum(loser, runner)
            second_at = tl.where(loser >= runner, loser_at, runner_at)

        # Exact comparison; equal codes go to the lower index
        second_at = tl.where(second == float("-inf"), first_at, second_at)
        low = tl.minimum(first_at, second_at)
        high = tl.maximum(first_at, second_at)
        low_row = (level * size + low).to(tl.int64)
        high_row = (level * size + high).to(tl.int64)
        low_score = tl.zeros((ROWS,), tl.float32)
        high_score = tl.zeros((ROWS,), tl.float32)
        for start in range(0, width, CHUNK):
            d = start + chunk
            inside = live[:, None] & (d < width)[None, :]
            r = tl.load(points + at + d[None, :], inside, 0.0)
            if level > 0:
                r -= tl.load(quantized + at + d[None, :], inside, 0.0)
            low_score += tl.sum(
                r * tl.load(codes + low_row[:, None] * width + d[None, :], inside, 0.0), 1
            )
            high_score += tl.sum(
                r * tl.load(codes + high_row[:, None] * width + d[None, :], inside, 0.0), 1
            )
        low_score = low_score * tl.load(weights + low_row) - tl.load(offsets + low_row)
        high_score = high_score * tl.load(weights + high_row) - tl.load(offsets + high_row)
        chosen = tl.where(high_score > low_score, high, low)
        tl.store(indices + rows * levels + level, chosen.to(tl.int64), live)
        chosen_row = (level * size + chosen).to(tl.int64)
        for start in range(0, width, CHUNK):
            d = start + chunk
            inside = live[:, None] & (d < width)[None, :]
            code = tl.load(codes + chosen_row[:, None] * width + d[None, :], inside, 0.0)
            if level > 0:
                code += tl.load(quantized + at + d[None, :], inside, 0.0)
            tl.store(quantized + at + d[None, :], code, inside)
            rest = tl.load(points + at + d[None, :], inside, 0.0) - code
            error += tl.sum(rest * rest, 1)
        tl.debug_barrier()
    tl.store(errors + rows, error, live)


@triton.jit
def _member_sums(
    points, codes, indices, order, ends, sums,
    size, levels: tl.constexpr, width: tl.constexpr,
    ROWS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Sum of the residuals that chose one code: its members stand together in `order`."""
    code = tl.program_id(0)
    level = code // size
    d = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    wide = d < width
    begin = tl.load(ends + code - 1, code > 0, 0)
    end = tl.load(ends + code)
    total = tl.zeros((CHUNK,), tl.float32)
    for start in range(begin, end, ROWS):
        member = start + tl.arange(0, ROWS)
        live = member < end
        row = tl.load(order + member, live, 0)
        inside = live[:, None] & wide[None, :]
        r = tl.load(points + row[:, None] * width + d[None, :], inside, 0.0)
        before = tl.zeros((ROWS, CHUNK), tl.float32)
        for lower in range(levels):
            if lower < level:
                k = lower * size + tl.load(indices + row * levels + lower, live, 0)
                before += tl.load(codes + k[:, None] * width + d[None, :], inside, 0.0)
        total += tl.sum(r - before, 0)
    tl.store(sums + code.to(tl.int64) * width + d, total, wide)


@triton.jit
def _tails(
    points, codes, indices, scale, out,
    n, size, levels: tl.constexpr, width: tl.constexpr,
    ROWS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    live = rows < n
    inside = live[:, None] & (d < width)[None, :]
    tails = levels * tl.load(points + rows[:, None] * width + d[None, :], inside, 0.0)
    for level in tl.static_range(levels):
        k = level * size + tl.load(indices + rows * levels + level, live, 0)
        tails -= (levels - level) * tl.load(codes + k[:, None] * width + d[None, :], inside, 0.0)
    tl.store(out + rows[:, None] * width + d[None, :], tails * tl.load(scale), inside)


def residual_code_triton(
    points: Tensor, codes: Tensor, cosine: bool, statistics: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`fused.residual_code` on a GPU; bit-equal in repeated calls."""
    points, codes = points.contiguous(), codes.contiguous()
    (n, width), (levels, size, _) = points.shape, codes.shape
    lengths = codes.square().sum(-1)
    if cosine:
        weights, offsets = lengths.clamp(min=1e-24).rsqrt(), torch.zeros_like(lengths)
        scored = codes * weights[..., None]
    else:
        weights, offsets = torch.ones_like(lengths), lengths / 2
        scored = codes
    scales = scored.abs().amax((1, 2)).clamp(min=1e-30)
    half_codes = (scored / scales[:, None, None]).half()
    half_rows = torch.empty(n, width, dtype=torch.float16, device=points.device)
    quantized = torch.empty_like(points)
    indices = torch.empty(n, levels, dtype=torch.int64, device=points.device)
    errors = torch.empty(n, device=points.device)
    config = _search_config(size, width)
    _search[(triton.cdiv(n, config["ROWS"]),)](
        points, codes, half_codes, weights, offsets, scales,
        half_rows, quantized, indices, errors,
        n, size, levels, width, **config,
    )  # fmt: skip
    del half_rows, half_codes
    if statistics:
        counts, sums = _statistics(points, codes, indices)
    else:
        counts, sums = indices.new_empty(0, size), codes[:0].clone()
    loss = errors.sum() / (n * levels * width)
    return indices, quantized, loss, counts, sums


def _statistics(points: Tensor, codes: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    (n, width), (levels, size, _) = points.shape, codes.shape
    books = torch.arange(levels, device=points.device, dtype=torch.int32) * size
    keys = (indices.to(torch.int32).T + books[:, None]).flatten()
    keys, order = keys.sort(stable=True)
    ends = torch.searchsorted(
        keys, torch.arange(levels * size, device=points.device, dtype=torch.int32), right=True
    )
    sums = torch.empty_like(codes)
    chunk = min(128, triton.next_power_of_2(width))
    _member_sums[(levels * size, triton.cdiv(width, chunk))](
        points, codes, indices, order.remainder_(n), ends, sums,
        size, levels, width, ROWS=32, CHUNK=chunk, num_warps=4,
    )  # fmt: skip
    counts = ends.diff(prepend=ends.new_zeros(1)).view(levels, size)
    return counts, sums


def residual_tails_triton(points: Tensor, codes: Tensor, indices: Tensor, scale: Tensor) -> Tensor:
    """`fused.residual_tails` on a GPU."""
    points, codes = points.contiguous(), codes.contiguous()
    (n, width), (levels, size, _) = points.shape, codes.shape
    out = torch.empty_like(points)
    chunk = min(128, triton.next_power_of_2(width))
    _tails[(triton.cdiv(n, 32), triton.cdiv(width, chunk))](
        points, codes, indices, scale, out, n, size, levels, width, ROWS=32, CHUNK=chunk,
    )  # fmt: skip
    return out


def _search_config(size: int, width: int) -> dict[str, int]:
    """Tile sizes, as measured on an H100 (docs/results/speed.md)."""
    chunk = min(64, max(16, triton.next_power_of_2(width)))
    codes = min(128, max(16, triton.next_power_of_2(size)))
    return {"ROWS": 128, "CODES": codes, "CHUNK": chunk, "STAGES": 3, "num_warps": 8}
