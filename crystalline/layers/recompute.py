"""Values that are formed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch.utils.checkpoint import checkpoint

_T = TypeVar("_T")


def recomputed(function: Callable[..., _T], *inputs: object) -> _T:
    """`function(*inputs)`, of which only the inputs are kept for the backward pass.

    For what is cheap to form and large to keep. The function must draw nothing by chance.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
