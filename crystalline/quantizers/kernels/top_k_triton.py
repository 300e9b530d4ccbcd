"""Top-k codes in Triton, without a matrix of similarities.

Codes stand in buckets of 8 neighbours. The k best codes lie in the k buckets of greatest maxima, so
`_nominate` keeps only those of k + 4 buckets while it streams through the book: its scores are
products of fp16 inputs (rows and books scaled to magnitude 1, so nothing overflows) accumulated in
fp32, and an eighth of them, the maxima, compete. `_rank` then computes the similarities of all
nominees in fp32 and sorts by those, so a choice differs from an fp32 search only where more than 4
buckets lie within the rounding of fp16.

Both compare int64 keys: a score's bits in its order above, the complement of an index below; so
the greatest key is the best score and, of equals, the lowest index.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

BUCKET = tl.constexpr(8)
SPARE = 4
"""Buckets nominated beyond k."""
LOWEST = tl.constexpr(-9223372036854775807)
HIGHEST = tl.constexpr(9223372036854775807)
LOW = tl.constexpr(0x7FFFFFFF)
"""The bits of a key that hold the complement of an index."""


@triton.jit
def _key(score, index):
    bits = score.to(tl.int32, bitcast=True)
    order = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (order.to(tl.int64) << 32) | (index ^ LOW).to(tl.int64)


@triton.jit
def _nominate(
    half_rows, half_codes, offsets, units, scale,  # in
    nominees, log_normaliser, entropy,  # out
    n, turns, kept,
    ROWS: tl.constexpr, CODES: tl.constexpr, WIDTH: tl.constexpr, SLOTS: tl.constexpr,
    STAGES: tl.constexpr, ASSIGNMENT: tl.constexpr,
):  # fmt: skip
    """Buckets of the greatest maxima for ROWS queries; a turn takes CODES buckets, side by side."""
    group = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = rows < n
    at = group * n + rows
    d = tl.arange(0, WIDTH)
    column = tl.arange(0, CODES)
    a = tl.load(half_rows + at[:, None] * WIDTH + d[None, :], live[:, None], 0.0)
    unit = tl.load(units + at, live, 0.0)
    slot = tl.arange(0, SLOTS)
    # Keys of empty slots, all different; slots beyond those kept never fill
    empty = tl.where(slot < kept, slot.to(tl.int64) + LOWEST, HIGHEST)
    slots = tl.zeros((ROWS, SLOTS), tl.int64) + empty[None, :]
    if ASSIGNMENT:
        sharpness = tl.load(scale + at, live, 1.0)
        peak = tl.full((ROWS,), float("-inf"), tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        moment = tl.zeros((ROWS,), tl.float32)
    for turn in range(turns):
        best = tl.full((ROWS, CODES), float("-inf"), tl.float32)
        for member in tl.range(0, BUCKET, num_stages=STAGES):
            at_code = ((group * turns + turn) * BUCKET + member) * CODES + column
            b = tl.load(half_codes + at_code[None, :] * WIDTH + d[:, None])
            score = tl.dot(a, b) * unit[:, None] + tl.load(offsets + at_code)[None, :]
            best = tl.maximum(best, score)
            if ASSIGNMENT:  # softmax on the fly; codes that only pad have score -inf
                logit = tl.where(score > float("-inf"), score * sharpness[:, None], score)
                higher = tl.maximum(peak, tl.max(logit, 1))
                share = tl.exp(logit - higher[:, None])
                fade = tl.exp(peak - higher)
                total = total * fade + tl.sum(share, 1)
                weighted = tl.where(share > 0, share * logit, 0.0)
                moment = moment * fade + tl.sum(weighted, 1)
                peak = higher
        # A row's maxima enter from the greatest down; most turns are over after a few
        entering = 1
        while entering > 0:
            top, top_at = tl.max(best, 1, return_indices=True)
            key = _key(top, turn * CODES + top_at)
            least = tl.min(slots, 1)
            enters = (key > least) & (top > float("-inf"))
            leaves = (slots == least[:, None]) & enters[:, None]
            slots = tl.where(leaves, key[:, None], slots)
            best = tl.where(column[None, :] == top_at[:, None], float("-inf"), best)
            entering = tl.max(enters.to(tl.int32), 0)
    filled = (slots >> 32) > -2147483647
    bucket = tl.where(filled, (slots & LOW) ^ LOW, -1)
    inside = live[:, None] & (slot < kept)[None, :]
    tl.store(nominees + at[:, None] * kept + slot[None, :], bucket.to(tl.int32), inside)
    if ASSIGNMENT:
        tl.store(log_normaliser + at, peak + tl.log(total), live)
        tl.store(entropy + at, peak + tl.log(total) - moment / total, live)


@triton.jit
def _rank(
    queries, codes, offsets, nominees, indices,
    n, size, kept, k, width: tl.constexpr, CANDIDATES: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The k best of one query's nominees, best first."""
    row = tl.program_id(0).to(tl.int64)
    candidate = tl.arange(0, CANDIDATES)
    slot = candidate // BUCKET
    bucket = tl.load(nominees + row * kept + slot, slot < kept, -1)
    code = bucket * BUCKET + candidate % BUCKET
    real = (bucket >= 0) & (code < size)
    at = row // n * size + code
    score = tl.zeros((CANDIDATES,), tl.float32)
    for start in range(0, width, CHUNK):
        d = start + tl.arange(0, CHUNK)
        wide = d < width
        q = tl.load(queries + row * width + d, wide, 0.0)
        c = tl.load(codes + at[:, None] * width + d[None, :], real[:, None] & wide[None, :], 0.0)
        score += tl.sum(c * q[None, :], 1)
    score += tl.load(offsets + at, real, 0.0)
    keys = tl.where(real, _key(score, code), LOWEST)
    for j in range(k):
        top = tl.max(keys, 0)
        # A row of NaN has no nominees: its indices mean nothing, but exist
        chosen = tl.minimum((top & LOW) ^ LOW, size - 1)
        tl.store(indices + row * k + j, chosen)
        keys = tl.where(keys == top, LOWEST, keys)


@triton.jit
def _dots(
    points, codes, indices, out,
    total, n, size, k, width: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, WIDTH)
    live = rows < total
    inside = live[:, None] & (d < width)[None, :]
    x = tl.load(points + rows[:, None] * width + d[None, :], inside, 0.0)
    for j in range(k):
        at = rows // n * size + tl.load(indices + rows * k + j, live, 0)
        c = tl.load(codes + at[:, None] * width + d[None, :], inside, 0.0)
        tl.store(out + rows * k + j, tl.sum(x * c, 1), live)


@triton.jit
def _mix(
    weights, codes, indices, out,
    total, n, size, k, width: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, WIDTH)
    live = rows < total
    inside = live[:, None] & (d < width)[None, :]
    mixed = tl.zeros((ROWS, WIDTH), tl.float32)
    for j in range(k):
        at = rows // n * size + tl.load(indices + rows * k + j, live, 0)
        weight = tl.load(weights + rows * k + j, live, 0.0)
        c = tl.load(codes + at[:, None] * width + d[None, :], inside, 0.0)
        mixed += weight[:, None] * c
    tl.store(out + rows[:, None] * width + d[None, :], mixed, inside)


@triton.jit
def _member_sums(
    weights, points, order, ends, sums,
    k, width: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Weighted sum of the points that chose one code: its members stand together in `order`."""
    code = tl.program_id(0)
    d = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    wide = d < width
    begin = tl.load(ends + code - 1, code > 0, 0)
    end = tl.load(ends + code)
    total = tl.zeros((CHUNK,), tl.float32)
    for start in range(begin, end, ROWS):
        member = start + tl.arange(0, ROWS)
        live = member < end
        entry = tl.load(order + member, live, 0)
        weight = tl.load(weights + entry, live, 0.0)
        inside = live[:, None] & wide[None, :]
        x = tl.load(points + (entry // k)[:, None] * width + d[None, :], inside, 0.0)
        total += tl.sum(weight[:, None] * x, 0)
    tl.store(sums + code.to(tl.int64) * width + d, total, wide)


def select_triton(
    queries: Tensor, codes: Tensor, offsets: Tensor, scale: Tensor, k: int, assignment: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`top_k.select` on a GPU; bit-equal in repeated calls."""
    queries, codes, offsets = queries.contiguous(), codes.contiguous(), offsets.contiguous()
    (groups, n, width), size = queries.shape, codes.shape[1]
    kept = min(k + SPARE, triton.cdiv(size, BUCKET.value))
    wide = max(16, triton.next_power_of_2(width))
    config = _nominate_config(kept, wide)
    turns = triton.cdiv(size, BUCKET.value * config["CODES"])
    half_rows, units = _halve(queries)
    half_codes, peaks = _halve(codes.flatten(1)[:, None])
    half_codes = half_codes.view(groups, size, width)
    half_rows = F.pad(half_rows, (0, wide - width))
    half_codes = _turns_of(F.pad(half_codes, (0, wide - width)), turns, config["CODES"], 0.0)
    turned = _turns_of(offsets[..., None], turns, config["CODES"], float("-inf"))
    nominees = torch.empty(groups, n, kept, dtype=torch.int32, device=queries.device)
    log_normaliser = queries.new_empty(groups if assignment else 0, n)
    entropy = torch.empty_like(log_normaliser)
    _nominate[(triton.cdiv(n, config["ROWS"]), groups)](
        half_rows, half_codes, turned, units * peaks, scale.contiguous(),
        nominees, log_normaliser, entropy,
        n, turns, kept, WIDTH=wide, SLOTS=triton.next_power_of_2(kept), ASSIGNMENT=assignment,
        **config,
    )  # fmt: skip
    del half_rows, half_codes
    indices = torch.empty(groups, n, k, dtype=torch.int64, device=queries.device)
    candidates = triton.next_power_of_2(kept * BUCKET.value)
    _rank[(groups * n,)](
        queries, codes, offsets, nominees, indices, n, size, kept, k, width,
        CANDIDATES=candidates, CHUNK=16, num_warps=min(8, max(1, candidates // 64)),
    )  # fmt: skip
    return indices, log_normaliser, entropy


def _halve(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows scaled to magnitude 1, in fp16, and what they were divided by."""
    peaks = torch.linalg.vector_norm(rows, torch.inf, dim=-1).clamp(min=1e-30)
    return (rows / peaks[..., None]).half(), peaks


def _turns_of(rows: Tensor, turns: int, codes: int, padding: float) -> Tensor:
    """(groups, K, width) in the order in which `_nominate` reads it: by turn, member, bucket."""
    bucket = BUCKET.value
    rows = F.pad(rows, (0, 0, 0, turns * codes * bucket - rows.shape[1]), value=padding)
    return rows.unflatten(1, (turns, codes, bucket)).transpose(2, 3).contiguous()


def dots_triton(points: Tensor, codes: Tensor, indices: Tensor) -> Tensor:
    """`top_k.dots` on a GPU."""
    points, codes, indices = points.contiguous(), codes.contiguous(), indices.contiguous()
    out = torch.empty(indices.shape, dtype=points.dtype, device=points.device)
    _over_rows(_dots, points, codes, indices, out)
    return out


def mix_triton(weights: Tensor, codes: Tensor, indices: Tensor) -> Tensor:
    """`top_k.mix` on a GPU."""
    weights, codes, indices = weights.contiguous(), codes.contiguous(), indices.contiguous()
    out = weights.new_empty(*weights.shape[:2], codes.shape[-1])
    _over_rows(_mix, weights, codes, indices, out)
    return out


def _over_rows(
    kernel: triton.JITFunction, per_row: Tensor, codes: Tensor, indices: Tensor, out: Tensor
) -> None:
    (groups, n, k), (_, size, width) = indices.shape, codes.shape
    wide = triton.next_power_of_2(width)
    rows = min(64, 4096 // wide)
    kernel[(triton.cdiv(groups * n, rows),)](
        per_row, codes, indices, out, groups * n, n, size, k, width, ROWS=rows, WIDTH=wide,
    )  # fmt: skip


def member_sums_triton(weights: Tensor, points: Tensor, indices: Tensor, size: int) -> Tensor:
    """`top_k.member_sums` on a GPU; bit-equal in repeated calls, since members are sorted."""
    weights, points = weights.contiguous(), points.contiguous()
    (groups, _, k), width = indices.shape, points.shape[-1]
    books = torch.arange(groups, device=points.device, dtype=torch.int32) * size
    keys = (indices.to(torch.int32) + books[:, None, None]).flatten()
    keys, order = keys.sort(stable=True)
    every = torch.arange(groups * size, device=points.device, dtype=torch.int32)
    ends = torch.searchsorted(keys, every, right=True)
    sums = points.new_empty(groups, size, width)
    chunk = min(128, triton.next_power_of_2(width))
    _member_sums[(groups * size, triton.cdiv(width, chunk))](
        weights, points, order, ends, sums, k, width, ROWS=32, CHUNK=chunk, num_warps=4,
    )  # fmt: skip
    return sums


def _nominate_config(kept: int, wide: int) -> dict[str, int]:
    """Tile sizes: a program's slots stay in registers, its rows and codes in 100 KB."""
    rows = min(128, 4096 // triton.next_power_of_2(kept), 16384 // wide)
    return {
        "ROWS": max(16, rows),
        "CODES": min(64, 16384 // wide),
        "STAGES": 3 if wide <= 128 else 2,
        "num_warps": 8 if rows == 128 else 4,
    }
