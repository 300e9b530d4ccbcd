"""FlexAttention (Dong et al. 2024, arXiv:2412.05496), compiled once for the process."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor


@cache
def _compiled() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)  # type: ignore[return-value]


def compiled_flex_attention(q: Tensor, k: Tensor, v: Tensor, blocks: Any) -> Tensor:
    """softmax(q k^T / sqrt(d)) v under a block mask; queries that see no key read 0.

    Outside the compiler its reference implementation would build the whole matrix of scores.
    """
    return _compiled()(q.contiguous(), k.contiguous(), v.contiguous(), block_mask=blocks)
