"""What optimizers remember follows rows that are born or stilled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from crystalline.contract import Renewal


def follow(optimizers: Iterable[Any], renewal: Renewal) -> None:
    """Fit what optimizers remember to rows that were born or stilled.

    A row that is born has no momentum and its parent's second moment: Adam's step counts are those
    of whole tensors, so a second moment of 0 would make the row's first steps far too long.
    """
    for optimizer in optimizers:
        if renewal.forget_all:
            optimizer.state.clear()
            continue
        for parameter in renewal.parameters:
            for name, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    _follow(name, value, renewal)


def _follow(name: str, value: Tensor, renewal: Renewal) -> None:
    if renewal.born is not None and renewal.parents is not None:
        value[renewal.born] = value[renewal.parents] if name == "exp_avg_sq" else 0.0
    if renewal.stilled is not None:
        value[renewal.stilled] = 0.0
