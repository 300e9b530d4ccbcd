"""Weights as eight-bit integers with a scale for each row.

    w ~ scale q,  q = round(w / scale) in [-127, 127],  scale = max |row| / 127

No value is clipped, so no weight moves by more than half a scale: 0.4 % of its row's largest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

LEVELS = 127
_SCALE_BYTES = 4


def quantize(state: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Any]:
    """The state, with every named tensor that gets smaller by it as {"values", "scales"}.

    Rows run along the last axis; scales are fp32. Tensors that share memory stay one.

    Args:
        state: Tensors by name.
        names: Those that may be rounded: parameters, not what counts or is exact.

    Raises:
        ValueError: If a tensor to be rounded is not finite.
    """
    found: dict[str, Any] = {}
    done: dict[tuple[int, torch.Size], dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if name not in names or not shrinks(tensor):
            found[name] = tensor
            continue
        place = (tensor.data_ptr(), tensor.shape)
        if place not in done:
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{name} is not finite")
            done[place] = _rounded(tensor)
        found[name] = done[place]
    return found


def dequantize(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """What `quantize` was given, rounded; in fp32 where it was."""
    return {
        name: value if isinstance(value, Tensor) else value["values"] * value["scales"]
        for name, value in state.items()
    }


def shrinks(tensor: Tensor) -> bool:
    """Whether eight bits and a scale a row take fewer bytes than the tensor does."""
    if not tensor.is_floating_point() or tensor.ndim < 2 or tensor.numel() == 0:
        return False
    rows = tensor.numel() // tensor.shape[-1]
    return tensor.numel() + rows * _SCALE_BYTES < tensor.numel() * tensor.element_size()


def _rounded(tensor: Tensor) -> dict[str, Tensor]:
    weights = tensor.detach().float()
    scales = weights.abs().amax(-1, keepdim=True) / LEVELS
    steps = torch.where(scales > 0, scales, 1.0)  # a row of zeros stays one
    values = (weights / steps).round().clamp(-LEVELS, LEVELS)
    return {"values": values.to(torch.int8), "scales": scales}
