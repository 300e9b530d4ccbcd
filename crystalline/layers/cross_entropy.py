"""Cross-entropy: of scores, without a second matrix of them; of a linear head, without a first."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from crystalline.layers.precision import at_least_fp32

IGNORED = -100
"""Targets that are not scored."""

_MAX_SCORES = 1 << 25  # fp32 scores held at once, 128 MiB


class CrossEntropy(NamedTuple):
    """How well scores name their targets."""

    loss: Float[Tensor, ""]
    """Mean nats over scored targets (0 without any); the only part with a gradient."""
    nats: Float[Tensor, "*axes"]
    """Of each target; 0 where it is ignored."""
    correct: Bool[Tensor, "*axes"]
    """Whether the best score is the target's (of equal ones, the one that `max` names: counting all
    would flatter scores of low precision); False where it is ignored."""


def cross_entropy(
    logits: Float[Tensor, "*axes vocab"], targets: Int[Tensor, "*axes"]
) -> CrossEntropy:
    """Of scores that stand in memory; computed in fp32 at least.

    Kept for the backward pass are the scores themselves, and of every row two numbers.
    """
    scores = at_least_fp32(logits).flatten(0, -2)
    loss, nats, correct = _CrossEntropy.apply(scores, targets.flatten())  # type: ignore[misc]
    return CrossEntropy(loss, nats.view_as(targets), correct.view_as(targets))


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scored = targets != IGNORED
        wanted = targets.where(scored, 0)[:, None]
        best, first = scores.max(-1, keepdim=True)
        # Beside `best`, not added to it: sure predictions of large scores would cost nothing.
        over = (scores - best).exp_().sum(-1, keepdim=True).log_()
        nats = (over + (best - scores.gather(-1, wanted)))[:, 0].masked_fill(~scored, 0)
        share = scored.to(scores.dtype) / scored.sum().clamp(min=1)
        ctx.save_for_backward(scores, wanted, share)
        correct = (first == wanted)[:, 0] & scored
        ctx.mark_non_differentiable(nats, correct)
        return nats.sum() / scored.sum().clamp(min=1), nats, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, None]:  # type: ignore[override]
        scores, wanted, share = ctx.saved_tensors
        weight = (gradient * share)[:, None]
        pull = scores.softmax(-1).mul_(weight)
        return pull.scatter_add_(-1, wanted, -weight), None


def linear_cross_entropy(
    hidden: Float[Tensor, "*axes d_model"],
    weight: Float[Tensor, "vocab d_model"],
    targets: Int[Tensor, "*axes"],
) -> CrossEntropy:
    """`cross_entropy(hidden @ weight.T, targets)` without keeping the product.

    Gradients are formed in the forward pass, chunk by chunk, while the scores are at hand; the
    backward pass only scales them. Under autocast the products run in its dtype, the rest in fp32.

    Args:
        hidden: What the head reads.
        weight: The head.
        targets: int64 ids; -100 is ignored.
    """
    loss, nats, correct = _LinearCrossEntropy.apply(
        hidden.flatten(0, -2), weight, targets.flatten()
    )  # type: ignore[misc]
    return CrossEntropy(loss, nats.view_as(targets), correct.view_as(targets))


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = hidden.device.type
        dtype = hidden.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        wants_hidden, wants_weight, _ = ctx.needs_input_grad
        scored = targets != IGNORED
        nats = torch.zeros(len(targets), device=hidden.device, dtype=_wide(dtype))
        share = 1 / scored.sum().clamp(min=1).to(nats.dtype)
        correct = torch.zeros_like(scored)
        to_hidden = torch.empty_like(hidden) if wants_hidden else None
        to_weight = torch.zeros_like(weight) if wants_weight else None
        with torch.autocast(device, enabled=False):
            head = weight.to(dtype)
            rows = max(1, _MAX_SCORES // len(weight))
            for start in range(0, len(targets), rows):
                part = slice(start, start + rows)
                inputs, wanted, live = hidden[part].to(dtype), targets[part], scored[part]
                wanted = wanted.where(live, 0)[:, None]
                scores = (inputs @ head.T).to(nats.dtype)
                at_target = scores.gather(-1, wanted)
                best, first = scores.max(-1, keepdim=True)
                correct[part] = (first == wanted)[:, 0] & live
                total = scores.sub_(best).exp_().sum(-1, keepdim=True)  # of exp(score - best)
                nats[part] = (total.log() + (best - at_target))[:, 0].masked_fill(~live, 0)
                if to_hidden is None and to_weight is None:
                    continue
                weighted = live[:, None] * share
                pull = scores.mul_(weighted / total).scatter_add_(-1, wanted, -weighted)
                pull = pull.to(dtype)
                if to_hidden is not None:
                    to_hidden[part] = pull @ head
                if to_weight is not None:
                    to_weight += pull.T @ inputs
        ctx.save_for_backward(to_hidden, to_weight)
        ctx.mark_non_differentiable(nats, correct)
        return nats.sum() * share, nats, correct

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        to_hidden, to_weight = ctx.saved_tensors
        return (
            None if to_hidden is None else to_hidden * gradient,
            None if to_weight is None else to_weight * gradient,
            None,
        )


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
