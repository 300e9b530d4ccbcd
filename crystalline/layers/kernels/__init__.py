"""Operators with kernels in Triton, opaque to torch.compile; on a CPU they are plain torch."""

from __future__ import annotations

import functools
import importlib.util

from torch import Tensor


@functools.cache
def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def runs_triton(x: Tensor) -> bool:
    """Whether kernels can be launched where `x` lies."""
    return x.device.type == "cuda" and has_triton()
