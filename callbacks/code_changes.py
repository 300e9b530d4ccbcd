"""What has to follow when a callback moves codes: the other ranks, and the optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch.distributed as dist
from jaxtyping import Bool
from torch import Tensor

from crystalline.quantizers.codebook import Codebook


def follow_rank_0(book: Codebook) -> None:
    """Give every rank the codes and statistics of rank 0."""
    for tensor in book.state_dict().values():
        dist.broadcast(tensor, src=0)


def forget_momentum(
    optimizers: Iterable[Any], codes: Tensor, moved: Bool[Tensor, "levels codebook_size"]
) -> None:
    """Zero what optimizers remember of the codes that moved."""
    for optimizer in optimizers:
        for value in optimizer.state.get(codes, {}).values():
            if isinstance(value, Tensor) and value.shape == codes.shape:
                value.masked_fill_(moved[..., None], 0)
