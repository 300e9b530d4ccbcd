"""Retention: attention whose softmax is replaced by an exponential decay (Sun et al. 2023).

One map, two forms (arXiv:2307.08621, section 2.1): the parallel one compares all pairs of
positions, the recurrent one carries a (d_head, d_head) state, so that generation costs the same at
every position. The forms mix: a chunk of positions may follow a state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from crystalline.layers.convolution import CausalConvolution
from crystalline.layers.precision import at_least_fp32
from crystalline.layers.rotary import Rotary


@dataclass
class RetentionState:
    """What retention carries over from the positions it has seen."""

    memory: Float[Tensor, "batch head d_head d_head"]
    """sum over past u of decay**(t - u) k_u v_u^T, t being the last position; fp32."""
    recent: Float[Tensor, "batch width d_model"] | None
    """Inputs that the short convolution still needs."""
    position: int = 0
    """Positions seen."""


class SimplifiedRetention(nn.Module):
    """y_t = sum_{u <= t} (q_t . k_u / sqrt(d_head)) decay_h**(t - u) v_u, gated by SiLU(W_g x_t).

    Head h forgets with decay_h = 1 - 2**(-5 - h). With `gated`, decay**(t - u) becomes the product
    of sigmoid(a_h . x_i + b_h) over i in (u, t], which starts at the same value: each token says
    how much of the past it leaves (gated retention, Sun et al. 2024, arXiv:2405.05254). The
    published code leaves y as it is, so it grows with the context; `normalised` divides each
    head's y by its own spread (spec defect Z11).

    Args:
        d_model: Width, a multiple of `num_heads`.
        num_heads: Number of heads.
        context_length: Longest sequence in positions.
        dropout: On the output map.
        normalised: Layer norm without parameters over each head's y.
        short_conv: Width of a causal depthwise convolution added to the input; 0 for none.
        gated: Whether decays depend on the input.

    Raises:
        ValueError: If `num_heads` does not divide `d_model`.
    """

    decay_log: Float[Tensor, " head"]

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        context_length: int,
        dropout: float = 0.0,
        *,
        normalised: bool = True,
        short_conv: int = 0,
        gated: bool = False,
    ) -> None:
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"num_heads must divide d_model, got {num_heads} and {d_model}")
        self.num_heads = num_heads
        self.d_head = d_model // num_heads
        self.normalised = normalised
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.gate = nn.Linear(d_model, d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.rotary = Rotary(self.d_head, context_length)
        self.conv = CausalConvolution(d_model, short_conv) if short_conv else None
        self.dropout = nn.Dropout(dropout)
        decay = 1 - 2.0 ** (-5 - torch.arange(num_heads, dtype=torch.float64))
        self.register_buffer("decay_log", decay.log().float(), persistent=False)
        self.forget_weight = self.forget_bias = None
        if gated:
            self.forget_weight = nn.Parameter(torch.zeros(num_heads, d_model))
            self.forget_bias = nn.Parameter(decay.logit().float())

    def forward(
        self, x: Float[Tensor, "batch pos d_model"], state: RetentionState | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """The parallel form; with a state, `x` continues it and the state is advanced in place."""
        if self.conv is not None:
            recent = None if state is None else state.recent
            x, recent = self.conv(x, recent)
            if state is not None:
                state.recent = recent
        q, k, v = rearrange(
            self.qkv(x),
            "batch pos (three head d) -> three batch head pos d",
            three=3,
            head=self.num_heads,
        )
        start = 0 if state is None else state.position
        q, k = self.rotary(q * self.d_head**-0.5, start), self.rotary(k, start)
        elapsed = self._elapsed(x)
        y = (q @ k.mT * _decay_between(elapsed)).type_as(v) @ v
        if state is not None:
            y = y + (at_least_fp32(q) * elapsed.exp()[..., None] @ state.memory).type_as(q)
            _remember(k, v, elapsed, state)
        if self.normalised:
            y = F.layer_norm(at_least_fp32(y), (self.d_head,)).type_as(x)
        y = rearrange(y, "batch head pos d -> batch pos (head d)")
        return self.dropout(self.out(y * F.silu(self.gate(x))))

    def init_state(self, batch: int) -> RetentionState:
        """The state before the first position."""
        weight = self.qkv.weight
        memory = torch.zeros(batch, self.num_heads, self.d_head, self.d_head, device=weight.device)
        recent = None if self.conv is None else self.conv.init_recent(batch)
        return RetentionState(memory, recent)

    def _elapsed(self, x: Tensor) -> Float[Tensor, "#batch head pos"]:
        """Log of all decay from before the first position to each one, its own included; fp32."""
        if self.forget_weight is None or self.forget_bias is None:
            count = torch.arange(1, x.shape[1] + 1, device=x.device)
            return (self.decay_log[:, None] * count)[None]
        with torch.autocast(x.device.type, enabled=False):
            kept = F.linear(at_least_fp32(x), self.forget_weight, self.forget_bias)
            return F.logsigmoid(kept).mT.cumsum(-1)


def _decay_between(
    elapsed: Float[Tensor, "batch head pos"],
) -> Float[Tensor, "batch head query key"]:
    length = elapsed.shape[-1]
    past = torch.ones(length, length, dtype=torch.bool, device=elapsed.device).tril()
    between = elapsed[..., :, None] - elapsed[..., None, :]
    return between.masked_fill(~past, float("-inf")).exp()


def _remember(
    k: Tensor, v: Tensor, elapsed: Float[Tensor, "#batch head pos"], state: RetentionState
) -> None:
    last = elapsed[..., -1:]
    remaining = (last - elapsed).exp()[..., None]
    kept = last.exp()[..., None]
    state.memory = kept * state.memory + (at_least_fp32(k) * remaining).mT @ at_least_fp32(v)
    state.position += k.shape[-2]
