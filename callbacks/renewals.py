"""What optimizers remember follows rows that are born or stilled."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from callbacks.code_changes import memories
from crystalline.contract import Renewal


def follow(optimizers: Collection[Any], renewal: Renewal) -> None:
    """Fit what optimizers remember to rows that were born or stilled.

    A row that is born has no momentum and its parent's second moment: Adam's step counts are those
    of whole tensors, so a second moment of 0 would make the row's first steps far too long.
    """
    if renewal.forget_all:
        for optimizer in optimizers:
            optimizer.state.clear()
        return
    for parameter in renewal.parameters:
        for name, value in memories(optimizers, parameter):
            if renewal.born is not None and renewal.parents is not None:
                parents = value[renewal.parents]
                value[renewal.born] = parents if name == "exp_avg_sq" else 0.0
            if renewal.stilled is not None:
                value[renewal.stilled] = 0.0
