"""Linear attention to the strict past whose decay each position sets by itself.

    r_t = sum over s < t of w_ts <q_t, k_s> u_s

`per_key`: w_ts = decay_s**(t - s - 1), a key says how fast it fades itself. `cumulative`: w_ts =
product over s < i < t of decay_i, a position says how much of all before it fades, so that one
memory S_{t+1} = decay_t S_t + k_t u_t^T holds them. With one decay for all positions both are
`layers.decay_attention`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crystalline.layers.decay_attention import CHUNK, Memory, chunks, joined, no_memory


def per_key(
    q: Float[Tensor, "*lead pos d_key"],
    k: Float[Tensor, "*lead seen d_key"],
    u: Float[Tensor, "*lead seen d_value"],
    log_decay: Float[Tensor, "*lead seen"],
    start: int = 0,
) -> Float[Tensor, "*lead pos d_value"]:
    """All pairs at once: there is no memory of fixed size.

    Args:
        q: Queries, the first one at position `start`.
        k: Keys from position 0 on.
        u: Values.
        log_decay: log of each key's decay, at most 0; fp32.
        start: Positions before the first query.
    """
    query = start + torch.arange(q.shape[-2], device=q.device)
    gap = query[:, None] - torch.arange(k.shape[-2], device=q.device) - 1
    power = log_decay[..., None, :] * gap.clamp(min=0)
    weight = power.exp().masked_fill(gap < 0, 0)
    return ((q @ k.mT) * weight.to(q.dtype)) @ u


def cumulative(
    q: Float[Tensor, "*lead pos d_key"],
    k: Float[Tensor, "*lead pos d_key"],
    u: Float[Tensor, "*lead pos d_value"],
    log_decay: Float[Tensor, "*lead pos"],
    memory: Memory | None = None,
    size: int = CHUNK,
) -> tuple[Float[Tensor, "*lead pos d_value"], Memory]:
    """Pairs within chunks of `size`, memory between them; also S after the last position.

    Args:
        q: Queries.
        k: Keys.
        u: Values.
        log_decay: log of each position's decay, at most 0; fp32.
        memory: S of the first position; None: nothing.
        size: Positions of a chunk.
    """
    memory = no_memory(k, u) if memory is None else memory
    read = []
    for a, b, c, log in chunks(size, q, k, u, log_decay[..., None]):
        elapsed = log[..., 0].cumsum(-1)  # of the chunk, the position's own included
        before = F.pad(elapsed, (1, 0))[..., :-1]
        between = before[..., :, None] - elapsed[..., None, :]
        past = torch.ones(between.shape[-2:], dtype=torch.bool, device=q.device).tril(-1)
        inside = between.masked_fill(~past, -torch.inf).exp()
        until = (elapsed[..., -1:] - elapsed).exp()[..., None]
        states, memory = joined((until.to(b.dtype) * b).mT @ c, elapsed[..., -1], memory)
        scores = (a @ b.mT) * inside.to(a.dtype)
        faded = before.exp()[..., None].to(a.dtype)
        read.append((scores @ c + faded * (a @ states.to(a.dtype))).flatten(-3, -2))
    return torch.cat(read, -2), memory
