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

    Head h forgets with decay_h = 1 - 2**(-5 - h). The published code leaves y as it is, so it grows
    with the context; `normalised` divides each head's y by its own spread (spec defect Z11).

    Args:
        d_model: Width, a multiple of `num_heads`.
        num_heads: Number of heads.
        context_length: Longest sequence in positions.
        dropout: On the output map.
        normalised: Layer norm without parameters over each head's y.
        short_conv: Width of a causal depthwise convolution added to the input; 0 for none.

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

    def forward(
        self, x: Float[Tensor, "batch pos d_model"], state: RetentionState | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """The parallel form; with a state, `x` continues it and the state is advanced in place."""
        if self.conv is not None:
            recent = None if state is None else state.recent
            mixed, recent = self.conv(x, recent)
            x = x + mixed
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
        y = (q @ k.mT * self._decay_between(x.shape[1])).type_as(v) @ v
        if state is not None:
            y = y + self._recall(q, state)
            self._remember(k, v, state)
        if self.normalised:
            y = F.layer_norm(y.float(), (self.d_head,)).type_as(x)
        y = rearrange(y, "batch head pos d -> batch pos (head d)")
        return self.dropout(self.out(y * F.silu(self.gate(x))))

    def init_state(self, batch: int) -> RetentionState:
        """The state before the first position."""
        weight = self.qkv.weight
        memory = torch.zeros(batch, self.num_heads, self.d_head, self.d_head, device=weight.device)
        recent = None if self.conv is None else self.conv.init_recent(batch)
        return RetentionState(memory, recent)

    def _decay_between(self, length: int) -> Float[Tensor, "head query key"]:
        position = torch.arange(length, device=self.decay_log.device)
        distance = position[:, None] - position
        decay = torch.exp(self.decay_log[:, None, None] * distance.clamp(min=0))
        return decay * (distance >= 0)

    def _recall(self, q: Tensor, state: RetentionState) -> Float[Tensor, "batch head pos d"]:
        elapsed = torch.arange(1, q.shape[-2] + 1, device=q.device)
        decay = torch.exp(self.decay_log[:, None] * elapsed)[..., None]  # head pos 1
        return (q.float() * decay @ state.memory).type_as(q)

    def _remember(self, k: Tensor, v: Tensor, state: RetentionState) -> None:
        length = k.shape[-2]
        remaining = torch.arange(length - 1, -1, -1, device=k.device)
        decay = torch.exp(self.decay_log[:, None] * remaining)[..., None]
        kept = torch.exp(self.decay_log * length)[:, None, None]
        state.memory = kept * state.memory + (k.float() * decay).mT @ v.float()
        state.position += length
