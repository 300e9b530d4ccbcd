"""Top-k codes as operators opaque to torch.compile: one chooses, three compute with the choice.

With S_n the k codes that position n chose, a form that is linear in each of w, x and c,

    T(w, x, c) = sum over n, and over j in S_n, of w_nj (x_n . c_j)

has three partial derivatives: `dots` (by w), `mix` (by x) and `member_sums` (by c). The derivatives
of each are the other two, so gradients of any order stay sparse: no operator here makes a matrix of
n x codebook_size, or of n x k x d.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crystalline.layers.kernels import runs_triton

_CHUNK = 1 << 19
"""Numbers that a CPU holds at once: 2 MiB of fp32 stay in its cache."""
_MAX_K, _MAX_WIDTH = 252, 512
"""What Triton keeps in registers."""


def applies(queries: Tensor, codes: Tensor, k: int) -> bool:
    """Whether the operators take these tensors."""
    if queries.dtype != torch.float32 or codes.dtype != torch.float32 or queries.numel() == 0:
        return False
    fits = k <= _MAX_K and queries.shape[-1] <= _MAX_WIDTH
    return queries.device.type == "cpu" or (runs_triton(queries) and fits)


def flattened(indices: Tensor, size: int) -> Tensor:
    """Indices into the books of all groups end to end, (groups n) x k."""
    books = torch.arange(len(indices), device=indices.device) * size
    return (indices + books[:, None, None]).flatten(0, 1)


@torch.library.custom_op(
    "crystalline::top_k_select",
    mutates_args=(),
    schema="(Tensor queries, Tensor codes, Tensor offsets, Tensor scale, int k, bool assignment)"
    " -> (Tensor, Tensor, Tensor)",
)
def select(
    queries: Tensor, codes: Tensor, offsets: Tensor, scale: Tensor, k: int, assignment: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the k best by queries . codes + offsets, log normaliser, entropy; no gradient.

    Shapes (groups, n, d), (groups, K, d), (groups, K), (groups, n); results (groups, n, k) and
    twice (groups, n), which are empty without `assignment`. `scale` bears on those two alone.
    """
    (groups, n, _), size = queries.shape, codes.shape[1]
    indices = torch.empty(groups, n, k, dtype=torch.int64)
    log_normaliser = queries.new_empty(groups if assignment else 0, n)
    entropy = torch.empty_like(log_normaliser)
    rows = max(1, _CHUNK // size)
    for group in range(groups):
        for start in range(0, n, rows):
            part = slice(start, start + rows)
            scores = torch.addmm(offsets[group], queries[group, part], codes[group].T)
            indices[group, part] = _best(scores, k)
            if assignment:
                logits = scores * scale[group, part, None]
                log_normaliser[group, part] = logits.logsumexp(-1)
                surprise = logits.sub_(log_normaliser[group, part, None])
                entropy[group, part] = -(surprise.exp() * surprise).sum(-1)
    return indices, log_normaliser, entropy


def _best(scores: Tensor, k: int) -> Tensor:
    """Columns of the k largest of each row, of equals the lowest first."""
    values, indices = scores.topk(min(k + 1, scores.shape[1]))
    indices = indices[:, :k]
    # topk promises no order among equals: rows that have some are sorted
    tied = (values[:, 1:] == values[:, :-1]).any(-1)
    if tied.any():
        indices[tied] = scores[tied].sort(stable=True, descending=True).indices[:, :k]
    return indices


@select.register_kernel("cuda")
def _(
    queries: Tensor, codes: Tensor, offsets: Tensor, scale: Tensor, k: int, assignment: bool
) -> tuple[Tensor, ...]:
    from crystalline.quantizers.kernels.top_k_triton import select_triton

    return select_triton(queries, codes, offsets, scale, k, assignment)


@select.register_fake
def _(
    queries: Tensor, codes: Tensor, offsets: Tensor, scale: Tensor, k: int, assignment: bool
) -> tuple[Tensor, ...]:
    groups, n, _ = queries.shape
    indices = queries.new_empty(groups, n, k, dtype=torch.int64)
    log_normaliser = queries.new_empty(groups if assignment else 0, n)
    return indices, log_normaliser, torch.empty_like(log_normaliser)


@torch.library.custom_op(
    "crystalline::chosen_dots",
    mutates_args=(),
    schema="(Tensor points, Tensor codes, Tensor indices) -> Tensor",
)
def dots(points: Tensor, codes: Tensor, indices: Tensor) -> Tensor:
    """x_n . c_j for the chosen j: (groups, n, d), (groups, K, d), (groups, n, k) -> indices'."""
    groups, n, width = points.shape
    k = indices.shape[-1]
    rows = max(1, _CHUNK // (k * width))
    books = codes.flatten(0, 1)
    parts = [
        torch.bmm(books[index], part[..., None])[..., 0]
        for part, index in zip(
            points.flatten(0, 1).split(rows),
            flattened(indices, codes.shape[1]).split(rows),
            strict=True,
        )
    ]
    return torch.cat(parts).view(groups, n, k)


@dots.register_kernel("cuda")
def _(points: Tensor, codes: Tensor, indices: Tensor) -> Tensor:
    from crystalline.quantizers.kernels.top_k_triton import dots_triton

    return dots_triton(points, codes, indices)


@dots.register_fake
def _(points: Tensor, codes: Tensor, indices: Tensor) -> Tensor:
    return points.new_empty(indices.shape)


@torch.library.custom_op(
    "crystalline::chosen_mix",
    mutates_args=(),
    schema="(Tensor weights, Tensor codes, Tensor indices) -> Tensor",
)
def mix(weights: Tensor, codes: Tensor, indices: Tensor) -> Tensor:
    """Sum over the chosen j of w_nj c_j: (groups, n, k), (groups, K, d) -> (groups, n, d)."""
    groups, n, _ = weights.shape
    mixed = F.embedding_bag(
        flattened(indices, codes.shape[1]),
        codes.flatten(0, 1),
        per_sample_weights=weights.flatten(0, 1),
        mode="sum",
    )
    return mixed.view(groups, n, codes.shape[-1])


@mix.register_kernel("cuda")
def _(weights: Tensor, codes: Tensor, indices: Tensor) -> Tensor:
    from crystalline.quantizers.kernels.top_k_triton import mix_triton

    return mix_triton(weights, codes, indices)


@mix.register_fake
def _(weights: Tensor, codes: Tensor, indices: Tensor) -> Tensor:
    return weights.new_empty(*weights.shape[:2], codes.shape[-1])


@torch.library.custom_op(
    "crystalline::chosen_member_sums",
    mutates_args=(),
    schema="(Tensor weights, Tensor points, Tensor indices, int size) -> Tensor",
)
def member_sums(weights: Tensor, points: Tensor, indices: Tensor, size: int) -> Tensor:
    """Sum over the n that chose j of w_nj x_n: (groups, n, k), (groups, n, d) -> (groups, K, d)."""
    groups, _, width = points.shape
    sums = points.new_zeros(groups * size, width)
    flat, rows = flattened(indices, size), points.flatten(0, 1)
    for weight, index in zip(weights.flatten(0, 1).unbind(-1), flat.unbind(-1), strict=True):
        sums.index_add_(0, index, weight[:, None] * rows)
    return sums.view(groups, size, width)


@member_sums.register_kernel("cuda")
def _(weights: Tensor, points: Tensor, indices: Tensor, size: int) -> Tensor:
    from crystalline.quantizers.kernels.top_k_triton import member_sums_triton

    return member_sums_triton(weights, points, indices, size)


@member_sums.register_fake
def _(weights: Tensor, points: Tensor, indices: Tensor, size: int) -> Tensor:
    return points.new_empty(len(points), size, points.shape[-1])


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])


def _dots_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    points, codes, indices = ctx.saved_tensors
    to_points, to_codes, _ = ctx.needs_input_grad
    return (
        mix(gradient, codes, indices) if to_points else None,
        member_sums(gradient, points, indices, codes.shape[1]) if to_codes else None,
        None,
    )


def _mix_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    weights, codes, indices = ctx.saved_tensors
    to_weights, to_codes, _ = ctx.needs_input_grad
    return (
        dots(gradient, codes, indices) if to_weights else None,
        member_sums(weights, gradient, indices, codes.shape[1]) if to_codes else None,
        None,
    )


def _member_sums_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    weights, points, indices = ctx.saved_tensors
    to_weights, to_points = ctx.needs_input_grad[:2]
    return (
        dots(points, gradient, indices) if to_weights else None,
        mix(weights, gradient, indices) if to_points else None,
        None,
        None,
    )


dots.register_autograd(_dots_backward, setup_context=_remember)
mix.register_autograd(_mix_backward, setup_context=_remember)
member_sums.register_autograd(_member_sums_backward, setup_context=_remember)
