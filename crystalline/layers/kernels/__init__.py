"""Operators with kernels in Triton, opaque to torch.compile; on a CPU they are plain torch."""

from __future__ import annotations

import importlib.util

from torch import Tensor

_HAS_TRITON = importlib.util.find_spec("triton") is not None


def runs_triton(x: Tensor) -> bool:
    """Whether kernels can be launched where `x` lies."""
    return x.device.type == "cuda" and _HAS_TRITON
