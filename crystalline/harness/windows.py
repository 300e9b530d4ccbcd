"""A long text as windows that a model can read, every wanted token scored once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from crystalline.layers.cross_entropy import IGNORED


class Window(NamedTuple):
    """What is read, and the token that follows each."""

    inputs: list[int]
    targets: list[int]
    """As many; -100 where the token is context and not scored."""


def windows(
    tokens: list[int], scored_from: int, context_length: int, alignment: int = 1
) -> list[Window]:
    """Windows that score `tokens[scored_from:]`, as lm_eval cuts them.

    What fits into one window is one, with as many of the tokens before it as there is room for.
    What does not is cut into windows that follow each other; the last one reaches back, so that it
    is full too.

    Args:
        tokens: Ids.
        scored_from: Index of the first scored token, at least 1.
        context_length: Tokens that a window can hold.
        alignment: Windows start at multiples of it, if `scored_from` is 1.
    """
    step = context_length // alignment * alignment
    last = len(tokens) - 1
    found = []
    for begin in range(scored_from - 1, last, step):
        end = min(begin + step, last)
        start = -(-max(0, end - context_length) // alignment) * alignment
        unscored = [IGNORED] * (begin - start)
        found.append(Window(tokens[start:end], unscored + tokens[begin + 1 : end + 1]))
    return found


def batched(
    rows: list[Window], padding: int
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Inputs and targets, int64; shorter rows are filled on the right, which causal models ignore.

    Args:
        rows: At least one.
        padding: The id to fill with; its targets are -100.
    """
    longest = max(len(row.inputs) for row in rows)
    inputs = torch.full((len(rows), longest), padding)
    targets = torch.full((len(rows), longest), IGNORED)
    for index, row in enumerate(rows):
        inputs[index, : len(row.inputs)] = torch.tensor(row.inputs)
        targets[index, : len(row.inputs)] = torch.tensor(row.targets)
    return inputs, targets
