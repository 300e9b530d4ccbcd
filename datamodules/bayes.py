"""Loss and accuracy of a model that knows the machine, by propagating the law of its beliefs."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import NamedTuple

from datamodules.machine import LENGTH, Machine

NEGLIGIBLE = 1e-12
"""Beliefs that are less likely are left out; their probability is below 1e-6 in all."""

Belief = tuple[tuple[int, float], ...]
"""States that may be the current one, with their probabilities."""


class Bayes(NamedTuple):
    """Means over all tokens of a sequence but the special one."""

    loss: float
    """Cross-entropy in nats."""
    accuracy: float
    """Chance that the likeliest next token comes."""


class Step(NamedTuple):
    """What happens from one belief about a state to the next."""

    losses: tuple[float, ...]
    """Expected nats of each digit."""
    accuracies: tuple[float, ...]
    following: tuple[tuple[Belief, float], ...]
    """Beliefs afterwards and their probabilities."""


def bayes(machine: Machine, length: int = LENGTH) -> Bayes:
    """Exact, whether digits name the state or history has to tell.

    Source: specification of TokFSM; 1.1748 nats and 46.38 % on the paper's machine.
    """
    start = [(int(state), 1 / len(machine.initial)) for state in machine.initial]
    known: dict[Belief, Step] = {}
    law: dict[Belief, float] = {}
    losses: list[float] = []
    accuracies: list[float] = []
    for number in range(machine.num_steps(length)):
        steps = (
            [(_read(machine, start), 1.0)]
            if number == 0
            else [(_step(machine, belief, known), mass) for belief, mass in law.items()]
        )
        for digit in range(machine.digits_per_state):
            losses.append(sum(step.losses[digit] * mass for step, mass in steps))
            accuracies.append(sum(step.accuracies[digit] * mass for step, mass in steps))
        law = _advance(steps)
    scored = length - 1
    return Bayes(sum(losses[:scored]) / scored, sum(accuracies[:scored]) / scored)


def _advance(steps: list[tuple[Step, float]]) -> dict[Belief, float]:
    law: dict[Belief, float] = defaultdict(float)
    for step, mass in steps:
        for belief, chance in step.following:
            law[belief] += mass * chance
    return {belief: mass for belief, mass in law.items() if mass > NEGLIGIBLE}


def _step(machine: Machine, belief: Belief, known: dict[Belief, Step]) -> Step:
    if belief not in known:
        edges = machine.successors.shape[1]
        following = [
            (int(after), chance / edges)
            for state, chance in belief
            for after in machine.successors[state]
        ]
        known[belief] = _read(machine, following)
    return known[belief]


def _read(machine: Machine, states: list[tuple[int, float]]) -> Step:
    """What reading the digits of a state costs and tells, if `states` is its law."""
    groups: dict[tuple[int, ...], dict[int, float]] = {}
    for state, chance in states:
        digits = tuple(machine.digits[state].tolist())
        group = groups.setdefault(digits, defaultdict(float))
        group[state] += chance
    chances = {digits: sum(group.values()) for digits, group in groups.items()}
    losses, accuracies = [], []
    for place in range(machine.digits_per_state):
        before: dict[tuple[int, ...], float] = defaultdict(float)
        after: dict[tuple[int, ...], float] = defaultdict(float)
        for digits, chance in chances.items():
            before[digits[:place]] += chance
            after[digits[: place + 1]] += chance
        best: dict[tuple[int, ...], float] = defaultdict(float)
        for prefix, chance in after.items():
            best[prefix[:-1]] = max(best[prefix[:-1]], chance)
        losses.append(-sum(c * math.log(c / before[p[:-1]]) for p, c in after.items()))
        accuracies.append(sum(best.values()))
    following = tuple(
        (tuple(sorted((s, round(c / chances[d], 12)) for s, c in group.items())), chances[d])
        for d, group in groups.items()
    )
    return Step(tuple(losses), tuple(accuracies), following)
