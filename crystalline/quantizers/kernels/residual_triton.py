"""Residual coding in Triton: search, lookup, residual and statistics without a matrix of distances.

Scores are products of fp16 inputs (11 bits, as TF32, at twice its rate; rows and books are scaled
below magnitude 1 first, so nothing overflows) accumulated in fp32. They only nominate: where the
two best codes of a point lie within the rounding of fp16, exact fp32 scores decide between them. So
indices equal those of an fp32 search unless three codes are that close.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_LOWEST = tl.constexpr(-(2**31))


@triton.jit
def _ordered(score, column, CODES: tl.constexpr):
    """int32 keys that sort as scores do; the last bits hold the column, the lowest one first."""
    bits = score.to(tl.int32, bitcast=True)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (bits & (0 - CODES)) | (CODES - 1 - column)


@triton.jit
def _score(key, CODES: tl.constexpr):
    """The score of a key, to 16 bits or more."""
    bits = key & (0 - CODES)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _exact(rest, codes, row, book, near, width: tl.constexpr, COSINE: tl.constexpr,
           CHUNK: tl.constexpr):  # fmt: skip
    """fp32 scores of one code (row `book`) for each point at `row`, where `near`."""
    dot = tl.zeros(book.shape, tl.float32)
    square = tl.zeros(book.shape, tl.float32)
    for start in range(0, width, CHUNK):
        d = start + tl.arange(0, CHUNK)
        inside = near[:, None] & (d < width)[None, :]
        r = tl.load(rest + row[:, None] + d[None, :], inside, 0.0)
        code = tl.load(codes + book[:, None] * width + d[None, :], inside, 0.0)
        dot += tl.sum(r * code, 1)
        square += tl.sum(code * code, 1)
    if COSINE:
        return dot * tl.rsqrt(tl.maximum(square, 1e-24))
    return dot - square / 2


@triton.jit
def _two_best(
    half_rows, half_codes, lengths, at, live, unscale, level, size, width: tl.constexpr,
    ROWS: tl.constexpr, CODES: tl.constexpr, CHUNK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Keys and places in the book of the two best codes of each row, by fp16 scores."""
    column = tl.arange(0, CODES)
    first = tl.full((ROWS,), _LOWEST, tl.int32)
    second = tl.full((ROWS,), _LOWEST, tl.int32)
    first_at = tl.zeros((ROWS,), tl.int32)
    second_at = tl.zeros((ROWS,), tl.int32)
    for base in range(0, size, CODES):
        real = base + column < size
        book = (level * size + base + column).to(tl.int64)
        score = tl.zeros((ROWS, CODES), tl.float32)
        for start in tl.range(0, width, CHUNK, num_stages=STAGES):
            d = start + tl.arange(0, CHUNK)
            a = tl.load(
                half_rows + at[:, None] + d[None, :], live[:, None] & (d < width)[None, :], 0.0
            )
            b = tl.load(
                half_codes + book[None, :] * width + d[:, None],
                real[None, :] & (d < width)[:, None], 0.0,
            )  # fmt: skip
            score = tl.dot(a, b, score)
        offset = tl.load(lengths + book, real, float("inf"))
        key = _ordered(score * unscale[:, None] - offset[None, :], column[None, :], CODES)
        top = tl.max(key, 1)
        next_ = tl.max(tl.where(key == top[:, None], _LOWEST, key), 1)
        top_at = base + CODES - 1 - (top & (CODES - 1))
        next_at = base + CODES - 1 - (next_ & (CODES - 1))
        ahead = (top & (0 - CODES)) > (first & (0 - CODES))
        loser = tl.where(ahead, first, top)
        loser_at = tl.where(ahead, first_at, top_at)
        runner = tl.where(ahead, next_, second)
        runner_at = tl.where(ahead, next_at, second_at)
        first = tl.where(ahead, top, first)
        first_at = tl.where(ahead, top_at, first_at)
        kept = (loser & (0 - CODES)) >= (runner & (0 - CODES))
        second = tl.where(kept, loser, runner)
        second_at = tl.where(kept, loser_at, runner_at)
    second_at = tl.where(second_at < size, second_at, first_at)
    return first, second, first_at, second_at


@triton.jit
def _search(
    points, codes, half_codes, lengths, largest,  # in
    half_rows, quantized, keys, indices, errors,  # out; half_rows is scratch
    n, size, levels: tl.constexpr, width: tl.constexpr, COSINE: tl.constexpr,
    ROWS: tl.constexpr, CODES: tl.constexpr, CHUNK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """All levels for ROWS points; `quantized` holds what is left of them until the end."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = rows < n
    at = rows * width
    bound = tl.full((ROWS,), 1e-30, tl.float32)  # of every coordinate of what is left
    norm = tl.zeros((ROWS,), tl.float32)
    for start in range(0, width, CHUNK):
        d = start + tl.arange(0, CHUNK)
        inside = live[:, None] & (d < width)[None, :]
        r = tl.load(points + at[:, None] + d[None, :], inside, 0.0)
        bound = tl.maximum(bound, tl.max(tl.abs(r), 1))
        norm += tl.sum(r * r, 1)
    for start in range(0, width, CHUNK):
        d = start + tl.arange(0, CHUNK)
        inside = live[:, None] & (d < width)[None, :]
        r = tl.load(points + at[:, None] + d[None, :], inside, 0.0)
        tl.store(quantized + at[:, None] + d[None, :], r, inside)
        tl.store(half_rows + at[:, None] + d[None, :], (r / bound[:, None]).to(tl.float16), inside)
    error = tl.zeros((ROWS,), tl.float32)
    for level in range(levels):
        tl.debug_barrier()  # other threads of this program read what was written
        longest = tl.load(largest + level)
        scale = 1.0 if COSINE else longest  # of this book's fp16 codes
        first, second, first_at, second_at = _two_best(
            half_rows, half_codes, lengths, at, live, bound * scale, level, size, width,
            ROWS, CODES, CHUNK, STAGES,
        )  # fmt: skip

        # Exact comparison where rounding (2**-11 for each factor) could have swapped them
        best = _score(first, CODES)
        slack = tl.sqrt(norm) * scale / 500 + tl.abs(best) / 16_000
        near = live & (best - _score(second, CODES) <= slack) & (first_at != second_at)
        low = (level * size + tl.minimum(first_at, second_at)).to(tl.int64)
        high = (level * size + tl.maximum(first_at, second_at)).to(tl.int64)
        low_score = _exact(quantized, codes, at, low, near, width, COSINE, CHUNK)
        high_score = _exact(quantized, codes, at, high, near, width, COSINE, CHUNK)
        chosen = tl.where(high_score > low_score, high, low)
        chosen = tl.where(near, chosen, (level * size + first_at).to(tl.int64))
        tl.store(indices + rows * levels + level, chosen - level * size, live)
        tl.store(keys + level * n + rows, chosen.to(tl.int32), live)

        bound += longest
        norm = tl.zeros((ROWS,), tl.float32)
        for start in range(0, width, CHUNK):
            d = start + tl.arange(0, CHUNK)
            inside = live[:, None] & (d < width)[None, :]
            r = tl.load(quantized + at[:, None] + d[None, :], inside, 0.0)
            r -= tl.load(codes + chosen[:, None] * width + d[None, :], inside, 0.0)
            norm += tl.sum(r * r, 1)
            if level < levels - 1:
                half = (r / bound[:, None]).to(tl.float16)
                tl.store(half_rows + at[:, None] + d[None, :], half, inside)
            else:
                r = tl.load(points + at[:, None] + d[None, :], inside, 0.0) - r
            tl.store(quantized + at[:, None] + d[None, :], r, inside)
        error += norm
    tl.store(errors + rows, error, live)


@triton.jit
def _member_sums(
    points, codes, keys, order, ends,  # in
    counts, sums,  # out
    n, size, width: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """How many residuals chose one code, and their sum: they stand together in `order`."""
    code = tl.program_id(0)
    level = code // size
    d = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    wide = d < width
    begin = tl.load(ends + code - 1, code > 0, 0)
    end = tl.load(ends + code)
    tl.store(counts + code, end - begin, tl.program_id(1) == 0)
    total = tl.zeros((CHUNK,), tl.float32)
    for start in range(begin, end, ROWS):
        member = start + tl.arange(0, ROWS)
        live = member < end
        row = tl.load(order + member, live, 0) % n
        inside = live[:, None] & wide[None, :]
        r = tl.load(points + row[:, None] * width + d[None, :], inside, 0.0)
        for lower in range(level):
            k = tl.load(keys + lower * n + row, live, 0).to(tl.int64)
            r -= tl.load(codes + k[:, None] * width + d[None, :], inside, 0.0)
        total += tl.sum(r, 0)
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
    norms = torch.linalg.vector_norm(codes, dim=-1, keepdim=True)
    largest = norms.amax(1, keepdim=True)
    lengths = torch.zeros_like(norms) if cosine else norms.square() / 2
    half_codes = (codes / (norms if cosine else largest).clamp(min=1e-12)).half()
    half_rows = torch.empty(n, width, dtype=torch.float16, device=points.device)
    quantized = torch.empty_like(points)
    keys = torch.empty(levels, n, dtype=torch.int32, device=points.device)
    indices = torch.empty(n, levels, dtype=torch.int64, device=points.device)
    errors = torch.empty(n, device=points.device)
    config = search_config(size, width)
    _search[(triton.cdiv(n, config["ROWS"]),)](
        points, codes, half_codes, lengths, largest,
        half_rows, quantized, keys, indices, errors,
        n, size, levels, width, cosine, **config,
    )  # fmt: skip
    del half_rows, half_codes
    if statistics:
        counts, sums = _statistics(points, codes, keys)
    else:
        counts, sums = indices.new_empty(0, size), codes[:0].clone()
    loss = errors.sum() / (n * levels * width)
    return indices, quantized, loss, counts, sums


def _statistics(points: Tensor, codes: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    (n, width), (levels, size, _) = points.shape, codes.shape
    ordered, order = keys.flatten().sort(stable=True)
    every = torch.arange(levels * size, device=points.device, dtype=torch.int32)
    ends = torch.searchsorted(ordered, every, right=True)
    counts = torch.empty(levels, size, dtype=torch.int64, device=points.device)
    sums = torch.empty_like(codes)
    chunk = min(64, triton.next_power_of_2(width))
    _member_sums[(levels * size, triton.cdiv(width, chunk))](
        points, codes, keys, order, ends, counts, sums,
        n, size, width, ROWS=16, CHUNK=chunk, num_warps=2,
    )  # fmt: skip
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


def search_config(size: int, width: int) -> dict[str, int]:
    """Tile sizes, as measured on an H100 (docs/results/speed.md)."""
    chunk = min(64, max(16, triton.next_power_of_2(width)))
    if size >= 256 and width >= 256:
        return {"ROWS": 128, "CODES": 256, "CHUNK": chunk, "STAGES": 3, "num_warps": 8}
    codes = min(128, max(16, triton.next_power_of_2(size)))
    return {"ROWS": 64, "CODES": codes, "CHUNK": chunk, "STAGES": 4, "num_warps": 4}
