"""Linear attention to the strict past, fading with distance.

    r_t = sum over s < t of decay**(t - s - 1) <q_t, k_s> u_s

No softmax and no normaliser; the first position reads nothing. Three forms of one definition: all
pairs at once (`quadratic`), one memory S_t = sum of decay**(t - s - 1) k_s u_s^T (`recurrent`), and
chunks of pairs joined by that memory (`chunked`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crystalline.layers.precision import at_least_fp32
from crystalline.layers.recompute import recomputed

CHUNK = 64

Memory = Float[Tensor, "*lead d_key d_value"]


def decay_attention(
    q: Float[Tensor, "*lead pos d_key"],
    k: Float[Tensor, "*lead pos d_key"],
    u: Float[Tensor, "*lead pos d_value"],
    log_decay: Float[Tensor, "*#lead"],
    memory: Memory | None = None,
) -> tuple[Float[Tensor, "*lead pos d_value"], Memory | None]:
    """What every position reads, by the form that takes the fewest operations.

    Args:
        q: Queries.
        k: Keys.
        u: Values.
        log_decay: log of the decay, at most 0; fp32, for instance `F.logsigmoid` of a logit.
        memory: S of the position before; given, the call continues it and answers with S after it.
    """
    length, d_key = q.shape[-2:]
    d_value = u.shape[-1]
    if memory is None:
        pairs, chunks = length * (d_key + d_value), CHUNK * (d_key + d_value) + 2 * d_key * d_value
        if length <= CHUNK or pairs <= chunks:
            return quadratic(q, k, u, log_decay), None
        return recomputed(chunked, q, k, u, log_decay)[0], None  # a memory a chunk is not kept
    if length == 1:
        return recurrent(q, k, u, log_decay, memory)
    return chunked(q, k, u, log_decay, memory)


def quadratic(q: Tensor, k: Tensor, u: Tensor, log_decay: Tensor) -> Float[Tensor, "*lead pos d"]:
    """All pairs at once: O(T^2) operations and memory."""
    scores = q @ k.mT
    return (scores * fading(q.shape[-2], log_decay).to(scores.dtype)) @ u


def recurrent(
    q: Tensor, k: Tensor, u: Tensor, log_decay: Tensor, memory: Memory | None = None
) -> tuple[Float[Tensor, "*lead pos d_value"], Memory]:
    """One position after the other; also S after the last."""
    decay = log_decay.exp()[..., None, None]
    memory = no_memory(k, u) if memory is None else memory
    read = []
    for t in range(q.shape[-2]):
        now = slice(t, t + 1)
        read.append(q[..., now, :] @ memory.to(q.dtype))
        memory = decay.to(memory.dtype) * memory + k[..., now, :].mT @ u[..., now, :]
    return torch.cat(read, -2), memory


def chunked(
    q: Tensor,
    k: Tensor,
    u: Tensor,
    log_decay: Tensor,
    memory: Memory | None = None,
    size: int = CHUNK,
) -> tuple[Float[Tensor, "*lead pos d_value"], Memory]:
    """Pairs within chunks of `size`, memory between them; also S after the last position."""
    memory = no_memory(k, u) if memory is None else memory
    read = []
    for a, b, c in chunks(size, q, k, u):
        count, length = a.shape[-3:-1]
        steps = torch.arange(length, device=q.device, dtype=log_decay.dtype)
        age = (log_decay[..., None] * steps)[..., None, :]  # decay**j at the j-th position
        inside = fading(length, log_decay)[..., None, :, :]
        until = age.flip(-1)[..., None].exp().to(b.dtype)
        left = (log_decay * length)[..., None].expand(*log_decay.shape, count)
        before, memory = joined((until * b).mT @ c, left, memory)
        scores = (a @ b.mT) * inside.to(a.dtype)
        faded = age[..., None].exp().to(a.dtype)
        read.append((scores @ c + faded * (a @ before.to(a.dtype))).flatten(-3, -2))
    return torch.cat(read, -2), memory


def chunks(size: int, *parts: Tensor) -> Iterator[list[Float[Tensor, "*lead chunk pos d"]]]:
    """(..., T, d) as chunks of `size` positions side by side; then the shorter one left over."""
    length = parts[0].shape[-2]
    whole = length - length % size
    for start, stop, width in ((0, whole, size), (whole, length, length - whole)):
        if start < stop:
            yield [part[..., start:stop, :].unflatten(-2, (-1, width)) for part in parts]


def joined(
    written: Float[Tensor, "*lead chunk d_key d_value"],
    log_left: Float[Tensor, "*#lead chunk"],
    memory: Memory,
) -> tuple[Float[Tensor, "*lead chunk d_key d_value"], Memory]:
    """S before each chunk, and after the last: S_{i+1} = left_i S_i + what chunk i has written.

    One matrix product over chunks, in single precision at least: what fades slowly is a sum of many
    small terms.
    """
    with torch.autocast(written.device.type, enabled=False):
        passed = F.pad(log_left.cumsum(-1), (1, 0))
        between = passed[..., :, None] - passed[..., None, 1:]
        past = torch.ones(between.shape[-2:], dtype=torch.bool, device=between.device).tril(-1)
        weight = between.masked_fill(~past, -torch.inf).exp().to(memory.dtype)
        found = weight @ written.flatten(-2).to(memory.dtype)
        kept = passed.exp()[..., None, None].to(memory.dtype) * memory[..., None, :, :]
        state = found.unflatten(-1, written.shape[-2:]) + kept
    return state[..., :-1, :, :], state[..., -1, :, :]


def no_memory(k: Tensor, u: Tensor) -> Memory:
    """S of the first position."""
    return at_least_fp32(k.new_zeros(*k.shape[:-2], k.shape[-1], u.shape[-1]))


def fading(length: int, log_decay: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead pos pos"]:
    """decay**(t - s - 1) at row t and column s < t; 0 elsewhere."""
    position = torch.arange(length, device=log_decay.device)
    gap = position[:, None] - position - 1
    # Masked before the power: a negative exponent would overflow, and inf * 0 is NaN.
    power = log_decay[..., None, None] * gap.clamp(min=0)
    return power.exp().masked_fill(gap < 0, 0)


def total_weight(
    start: int, length: int, log_decay: Float[Tensor, "*lead"]
) -> Float[Tensor, "*lead pos"]:
    """Sum of decay**(t - s - 1) over s < t, at least 1, for positions from `start` on."""
    seen = torch.arange(start, start + length, device=log_decay.device, dtype=log_decay.dtype)
    log_decay = log_decay[..., None].clamp(max=-1e-6)
    return (torch.expm1(seen * log_decay) / torch.expm1(log_decay)).clamp(min=1)


def log_sigmoid(logit: Tensor) -> Float[Tensor, "*lead"]:
    """Log of the decay that a logit stands for, in fp32."""
    return F.logsigmoid(logit.float())
