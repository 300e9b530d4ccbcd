"""The soft assignment a few rows at a time, with gradients by hand: no (n x K) matrix is kept.

Noise is a hash of seed, row and column, so the backward pass makes it again instead of keeping it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crystalline.layers.kernels import runs_triton
from crystalline.quantizers.kernels import top_k as kernels

_CPU_SCORES = 1 << 18  # 1 MiB of scores: they stay in a core's cache
_GPU_SCORES = 1 << 26  # 256 MiB: fewer launches


def draw_seed(device: torch.device) -> Int[Tensor, " one"]:
    """An int32 from torch's generator: all that noise needs of it."""
    return torch.randint(2**31 - 1, (1,), dtype=torch.int32, device=device)


def gumbel_noise(
    seed: Int[Tensor, " one"], start: int, rows: int, columns: int
) -> Float[Tensor, "rows columns"]:
    """Gumbel(0, 1) noise of rows `start` and on; the same numbers whenever they are asked for."""
    row = torch.arange(start, start + rows, dtype=torch.int32, device=seed.device)
    column = torch.arange(columns, dtype=torch.int32, device=seed.device)
    bits = _mixed(_mixed(row + seed)[:, None] ^ (column * -1640531535))
    return _gumbel(bits)


def _gumbel(bits: Int[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    # The middles of 2**23 intervals: with one bit more, the last would round to 1 and be infinite.
    uniform = (bits & 0x7FFFFF).float().add_(0.5).mul_(2**-23)
    return uniform.log_().neg_().log_().neg_()


def _mixed(x: Int[Tensor, "*axes"]) -> Int[Tensor, "*axes"]:
    """The finaliser of MurmurHash3 (Appleby, public domain) in wrapping int32, in place."""
    x = x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF)).mul_(-2048144789)
    x = x.bitwise_xor_((x >> 13).bitwise_and_(0x7FFFF)).mul_(-1028477387)
    return x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))


def largest(scores: Float[Tensor, "n codebook_size"], k: int) -> Int[Tensor, "n k"]:
    """Columns of the k largest entries of each row, largest first."""
    # argmax is a single pass, topk sorts. But argmax of `gumbel_noise`, compiled for a CPU by torch
    # 2.13, gives columns that do not exist.
    compiles_for_cpu = torch.compiler.is_compiling() and scores.device.type == "cpu"
    if k == 1 and not compiles_for_cpu:
        return scores.argmax(-1, keepdim=True)
    return scores.topk(k, dim=-1).indices


def largest_ahead(
    points: Float[Tensor, "n d"],
    unit_codes: Float[Tensor, "codebook_size d"],
    bias: Float[Tensor, "1 codebook_size"] | None,
    k: int,
) -> Int[Tensor, "n k"] | None:
    """`largest` of points @ unit_codes.T + bias where a kernel spares the sort; None elsewhere.

    The kernel ranks in fp32; scores that were computed in TF32 may order close codes otherwise.
    """
    if k == 1 or not (runs_triton(points) and kernels.applies(points, unit_codes, k)):
        return None
    offsets = points.new_zeros(1, len(unit_codes)) if bias is None else bias
    sharpness = points.new_ones(1, len(points))
    return kernels.select(points[None], unit_codes[None], offsets, sharpness, k, False)[0][0]


class _Rows(NamedTuple):
    """A chunk: its part of the rows, 1/tau, (similarity + bias) / tau, and that with noise."""

    part: slice
    scale: Tensor
    scores: Tensor
    noisy: Tensor


def _chunks(
    points: Tensor, unit_codes: Tensor, temperature: Tensor, bias: Tensor | None,
    seed: Tensor | None,
) -> Iterator[_Rows]:  # fmt: skip
    size = len(unit_codes)
    most = _GPU_SCORES if points.device.type == "cuda" else _CPU_SCORES
    rows = max(1, most // size)
    for start in range(0, len(points), rows):
        part = slice(start, start + rows)
        scale = 1 / (temperature[part] if len(temperature) > 1 else temperature)
        scores = (points[part] * scale) @ unit_codes.mT
        if bias is not None:
            scores.add_(bias * scale)
        noisy = scores
        if seed is not None:
            noisy = gumbel_noise(seed, start, len(scores), size).to(scores.dtype).add_(scores)
        yield _Rows(part, scale, scores, noisy)


class ChunkedAssignment(torch.autograd.Function):
    """`assignment.assign` of (points @ unit_codes.T + bias) / temperature; see there.

    Inputs: unit points (n, d), unit codes (K, d), codes (K, d), temperature (1 or n, 1), bias
    (1, K) or None, the seed of the noise or None, k, slots to list, and whether the surrogate
    leaves the points alone.
    Outputs: indices (n, slots), surrogate (n, d), entropy (n,), mean (K,), scores (n, slots).
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        points: Tensor,
        unit_codes: Tensor,
        codes: Tensor,
        temperature: Tensor,
        bias: Tensor | None,
        seed: Tensor | None,
        k: int,
        slots: int,
        detached: bool,
    ) -> tuple[Tensor, ...]:
        ahead = None if seed is not None else largest_ahead(points, unit_codes, bias, slots)
        indices = (
            points.new_empty(len(points), slots, dtype=torch.int64) if ahead is None else ahead
        )
        found = points.new_empty(indices.shape)
        surrogate, entropy = torch.empty_like(points), points.new_empty(len(points))
        mean = points.new_zeros(len(codes))
        for part, _, scores, noisy in _chunks(points, unit_codes, temperature, bias, seed):
            if ahead is None:
                indices[part] = largest(noisy, slots)
            found[part] = noisy.gather(-1, indices[part])
            log_p = scores.log_softmax(-1)
            p = log_p.exp()
            entropy[part] = -(p * log_p).sum(-1)
            mean += p.sum(0)
            sigma = noisy.softmax(-1).mul_(k).clamp_(max=1)
            surrogate[part] = sigma @ codes
        mean /= len(points)
        ctx.save_for_backward(points, unit_codes, codes, temperature, bias, seed)
        ctx.k, ctx.detached = k, detached
        ctx.mark_non_differentiable(indices, found)
        return indices, surrogate, entropy, mean, found

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, _: Any, of_surrogate: Tensor, of_entropy: Tensor, of_mean: Tensor, __: Any
    ) -> tuple[Tensor | None, ...]:
        with torch.autocast(of_mean.device.type, enabled=False):
            found = _gradients(ctx, of_surrogate, of_entropy, of_mean)
        to_points, to_codes, to_temperature = found
        return to_points, to_codes, None, to_temperature, None, None, None, None, None


def _gradients(
    ctx: Any, of_surrogate: Tensor, of_entropy: Tensor, of_mean: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """In points, unit codes and temperature."""
    points, unit_codes, codes, temperature, bias, seed = ctx.saved_tensors
    to_points, to_codes = torch.empty_like(points), torch.zeros_like(unit_codes)
    to_scale = points.new_empty(len(points), 1)
    of_mean = of_mean / len(points)
    for part, scale, scores, noisy in _chunks(points, unit_codes, temperature, bias, seed):
        log_p = scores.log_softmax(-1)
        p = log_p.exp()
        inner = (p * of_mean).sum(-1, keepdim=True)
        entropy = -(p * log_p).sum(-1, keepdim=True)
        # d entropy = -p (log p + entropy), d mean = p (w - p.w) / n
        clean = (log_p.add_(entropy) * -of_entropy[part, None]).add_(of_mean).sub_(inner)
        clean = clean.mul_(p)
        share = noisy.softmax(-1)
        pull = (of_surrogate[part] @ codes.mT).mul_(share).mul_(ctx.k)
        if ctx.k > 1:  # sigma is cut at 1
            pull = pull.masked_fill_(share * ctx.k >= 1, 0)
        pull = pull.sub_(share.mul_(pull.sum(-1, keepdim=True)))
        both = clean + pull
        to_points[part] = ((clean if ctx.detached else both) * scale) @ unit_codes
        to_codes += both.mT @ (points[part] * scale)
        to_scale[part] = (both * scores).sum(-1, keepdim=True) / scale
    to_temperature = -to_scale / temperature.square()
    if len(temperature) == 1:
        to_temperature = to_temperature.sum(0, keepdim=True)
    return to_points, to_codes, to_temperature
