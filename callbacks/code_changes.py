"""What has to follow when a callback changes weights: the other ranks, and optimizers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch.distributed as dist
from jaxtyping import Bool
from torch import Tensor, nn


def follow_rank_0(part: nn.Module) -> None:
    """Give every rank the weights and statistics that rank 0 has."""
    for tensor in part.state_dict().values():
        dist.broadcast(tensor, src=0)


def forget_momentum(
    optimizers: Iterable[Any], codes: Tensor, moved: Bool[Tensor, "levels codebook_size"]
) -> None:
    """Zero what optimizers remember of the codes that moved."""
    for _, value in memories(optimizers, codes):
        value.masked_fill_(moved[..., None], 0)


def memories(optimizers: Iterable[Any], parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What optimizers remember of each entry of a parameter, by name, in its shape."""
    for optimizer in optimizers:
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                yield name, value
