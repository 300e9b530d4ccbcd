"""A causal filter a channel, with or without gates, as one operator and its derivative.

    y[t, v] = bias[v] + sum over i < W of gates[t, i] taps[i, v] x[t - (W - 1) + i, v]

Each input is read once from memory and W times from the cache; a loop over taps reads and, for the
gradients of gates and taps, sums up the whole signal W times.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crystalline.layers.kernels import runs_triton


def applies(x: Tensor) -> bool:
    """Whether the kernels take this signal: they sum in fp32."""
    return runs_triton(x) and x.dtype != torch.float64 and x.numel() > 0


def filtered_plainly(padded: Tensor, taps: Tensor, bias: Tensor, gates: Tensor | None) -> Tensor:
    """The same by a loop over taps; x comes with the W - 1 positions before its first one."""
    length = padded.shape[1] - len(taps) + 1
    y = bias
    for i, tap in enumerate(taps):
        seen = padded[:, i : i + length]
        y = torch.addcmul(y, seen if gates is None else seen * gates[..., i, None], tap)
    return y


@torch.library.custom_op(
    "crystalline::filtered",
    mutates_args=(),
    schema="(Tensor x, Tensor taps, Tensor bias, Tensor? gates) -> Tensor",
)
def filtered(x: Tensor, taps: Tensor, bias: Tensor, gates: Tensor | None) -> Tensor:
    """y; shapes (batch, pos, V), (W, V), (V), (batch, pos, W), all of one dtype."""
    return filtered_plainly(F.pad(x, (0, 0, len(taps) - 1, 0)), taps, bias, gates)


@filtered.register_kernel("cuda")
def _(x: Tensor, taps: Tensor, bias: Tensor, gates: Tensor | None) -> Tensor:
    from crystalline.layers.kernels.taps_triton import filtered_triton

    return filtered_triton(x, taps, bias, gates)


@filtered.register_fake
def _(x: Tensor, taps: Tensor, bias: Tensor, gates: Tensor | None) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op(
    "crystalline::filtered_backward",
    mutates_args=(),
    schema="(Tensor dy, Tensor x, Tensor taps, Tensor? gates) -> (Tensor, Tensor, Tensor, Tensor)",
)
def filtered_backward(
    dy: Tensor, x: Tensor, taps: Tensor, gates: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, taps, bias and gates; the last one is empty without gates."""
    before, width = len(taps) - 1, x.shape[1]
    padded = F.pad(x, (0, 0, before, 0))
    dx = torch.zeros_like(padded)
    dtaps = torch.empty_like(taps)
    dgates = x.new_empty(0) if gates is None else torch.empty_like(gates)
    for i, tap in enumerate(taps):
        gated = dy if gates is None else dy * gates[..., i, None]
        dx[:, i : i + width] += gated * tap
        dtaps[i] = (padded[:, i : i + width] * gated).sum((0, 1))
        if gates is not None:
            dgates[..., i] = (padded[:, i : i + width] * dy) @ tap
    return dx[:, before:].contiguous(), dtaps, dy.sum((0, 1)), dgates


@filtered_backward.register_kernel("cuda")
def _(dy: Tensor, x: Tensor, taps: Tensor, gates: Tensor | None) -> tuple[Tensor, ...]:
    from crystalline.layers.kernels.taps_triton import filtered_backward_triton

    return filtered_backward_triton(dy, x, taps, gates)


@filtered_backward.register_fake
def _(dy: Tensor, x: Tensor, taps: Tensor, gates: Tensor | None) -> tuple[Tensor, ...]:
    dense = torch.contiguous_format
    return (
        torch.empty_like(x, memory_format=dense),
        torch.empty_like(taps, memory_format=dense),
        taps.new_empty(taps.shape[1]),
        x.new_empty(0) if gates is None else torch.empty_like(gates, memory_format=dense),
    )


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor | None], output: Any) -> None:
    x, taps, _, gates = inputs
    ctx.gated = gates is not None
    ctx.save_for_backward(x, taps, *(() if gates is None else (gates,)))


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, taps, *gates = ctx.saved_tensors
    dx, dtaps, dbias, dgates = filtered_backward(dy, x, taps, gates[0] if gates else None)
    return dx, dtaps, dbias, dgates if ctx.gated else None


filtered.register_autograd(_gradients, setup_context=_remember)
