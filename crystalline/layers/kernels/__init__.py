"""Operators with kernels in Triton, opaque to torch.compile; on a CPU they are plain torch."""

from __future__ import annotations

import functools
import importlib.util


@functools.cache
def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
