"""Sequences of a state machine that end in one feature, paired with another that is patched in.

A feature is a state, or a state and the first digit of the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from crystalline.errors import UserError


class Features(NamedTuple):
    """What may be patched in."""

    states: Int[np.ndarray, " feature"]
    digits: Int[np.ndarray, "feature digit"]
    """What is written when the feature is complete: the state's digits, and perhaps one more."""


class Contexts(NamedTuple):
    """Pairs of features: sequences that end in one of them, and the other one."""

    tokens: Int[Tensor, "pair pos"]
    """int64; after the last digit of a, special tokens, which causal models do not see."""
    last: Int[Tensor, " pair"]
    """Index of a's last digit."""
    target: Int[Tensor, " pair"]
    """b, as an index into the features."""

    def batches(self, size: int) -> Iterator[Contexts]:
        """Contexts of like length, cut to the longest."""
        for rows in self.last.argsort().split(size):
            end = int(self.last[rows].max()) + 1
            yield Contexts(self.tokens[rows, :end], self.last[rows], self.target[rows])


def features(machine: Any, *, with_digit: bool) -> Features:
    """Every state, or every state with each first digit that may follow it.

    Raises:
        UserError: If digits do not name the states of the machine.
    """
    if not machine.readable:
        raise UserError("data.variant: states must be known by their digits; take variant paper")
    states = np.arange(machine.num_states)
    if not with_digit:
        return Features(states, machine.digits)
    firsts = machine.digits[machine.successors, 0]
    pairs = [(state, digit) for state in states for digit in np.unique(firsts[state])]
    states, following = np.array(pairs).T
    return Features(states, np.column_stack([machine.digits[states], following]))


def contexts(
    machine: Any,
    found: Features,
    random: np.random.Generator,
    *,
    pairs: int | None,
    longest_prefix: int,
) -> Contexts:
    """Ordered pairs a, b of different features, each with a context that ends in a.

    The prefix has 0 to `longest_prefix` states, as often each: the end of a longer walk, drawn from
    those that lead to a's state.

    Args:
        machine: A `datamodules.machine.Machine` or its like.
        found: Its features.
        random: Draws pairs, walks and lengths.
        pairs: How many; None, or more than there are, for all.
        longest_prefix: States before a; 0 for the bare run.
    """
    count = len(found.states)
    total = count * (count - 1)
    all_pairs = pairs is None or pairs >= total
    chosen = np.arange(total) if all_pairs else random.choice(total, pairs, replace=False)
    a, rest = np.divmod(chosen, count - 1)
    b = rest + (rest >= a)
    lengths = random.integers(longest_prefix + 1, size=len(chosen))
    width = machine.digits_per_state
    extra = found.digits.shape[1] - width
    end = 1 + (longest_prefix + 1) * width + extra
    tokens = np.full((len(chosen), end), machine.special)
    for feature in np.unique(a):
        rows = np.flatnonzero(a == feature)
        state = int(found.states[feature])
        walks = machine.sample_before(random, state, longest_prefix + 1, len(rows))
        for row, walk in zip(rows, walks, strict=True):
            written = machine.digits[walk[longest_prefix - lengths[row] :]].reshape(-1)
            line = [*written, *found.digits[feature, width:]]
            tokens[row, 1 : 1 + len(line)] = line
    last = (lengths + 1) * width + extra
    return Contexts(torch.from_numpy(tokens), torch.from_numpy(last), torch.from_numpy(b))
