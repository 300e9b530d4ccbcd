"""Sums over the strict past that fade with distance, each channel at its own rate.

    r_t = sum over s < t of decay**(t - s - 1) x_s        or        r_{t+1} = decay r_t + x_t

A product with a (CHUNK, CHUNK) matrix a channel sums within chunks; what chunks leave for later
ones is a sum of the same kind. No exponent is negative, so nothing overflows in long sequences.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from crystalline.layers.decay_attention import fading
from crystalline.layers.precision import at_least_fp32

CHUNK = 32


def fading_sum(
    x: Float[Tensor, "batch pos channel"],
    log_decay: Float[Tensor, " channel"],
    memory: Float[Tensor, "batch channel"] | None = None,
) -> tuple[Float[Tensor, "batch pos channel"], Float[Tensor, "batch channel"] | None]:
    """The sums, in fp32 at least, whatever autocast says.

    Args:
        x: What is summed.
        log_decay: log of the decays, at most 0.
        memory: r of the first position; given, the call answers with r after its last one too.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, log_decay = at_least_fp32(x), at_least_fp32(log_decay)
        if memory is None:
            return _sums(x, log_decay), None
        age = torch.arange(x.shape[1] + 1, device=x.device)
        read = _sums(F.pad(x, (0, 0, 0, 1)), log_decay)
        read = read + (age[:, None] * log_decay).exp() * memory[:, None]
        return read[:, :-1], read[:, -1]


def _sums(x: Tensor, log_decay: Tensor) -> Float[Tensor, "batch pos channel"]:
    batch, length, _ = x.shape
    size = min(CHUNK, length)
    chunks = -(-length // size)
    x = F.pad(x, (0, 0, 0, chunks * size - length))
    x = rearrange(x, "batch (chunk pos) channel -> channel pos (batch chunk)", pos=size)
    within = fading(size + 1, log_decay)[..., :size] @ x  # row `size`: what a chunk leaves
    read = rearrange(within, "channel pos (batch chunk) -> batch chunk pos channel", batch=batch)
    if chunks > 1:
        before = _sums(read[:, :, size], size * log_decay)
        age = torch.arange(size, device=x.device)
        read = read[:, :, :size] + (age[:, None] * log_decay).exp() * before[:, :, None]
    return read[:, :, :size].flatten(1, 2)[:, :length]
