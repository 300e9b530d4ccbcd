"""Finite state machines that write digits: TokFSM (Tamkin et al. 2023, arXiv:2310.17230) and kin.

Every state has E equally likely successors, and writes D digits when it is entered. A sequence is
the special token and then the digits of a walk, cut to `length` tokens. The exact loss of a model
that knows the machine (`bayes`) is known, so that gaps to it are the honest scale.
"""

from __future__ import annotations

from functools import cached_property
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from crystalline.files import atomic_path

LENGTH = 128
"""Tokens a sequence, the special one included."""


class Walks(NamedTuple):
    """Sequences and the hidden truth about them."""

    tokens: Int[np.ndarray, "batch length"]
    """int64; digits, after the special token."""
    states: Int[np.ndarray, "batch steps"]
    """int64; the states entered, in order. The last one may be cut in `tokens`."""


class Machine:
    """A machine, by its tables.

    Args:
        successors: (N, E) int; the states that may follow each state, each with chance 1/E. A
            state may stand there twice, and is then twice as likely.
        digits: (N, D) int; what each state writes. States may write the same.
        base: Number of digits; its own value is the special token.
        initial: States with which a walk may start, equally likely; None for all.
    """

    def __init__(
        self,
        successors: Int[np.ndarray, "state edge"],
        digits: Int[np.ndarray, "state digit"],
        base: int = 10,
        initial: Int[np.ndarray, " start"] | None = None,
    ) -> None:
        self.successors = np.asarray(successors, np.int64)
        self.digits = np.asarray(digits, np.int64)
        self.base = base
        self.initial = np.arange(len(self.successors)) if initial is None else np.asarray(initial)

    @property
    def num_states(self) -> int:
        return len(self.successors)

    @property
    def special(self) -> int:
        """Id of the token that opens a sequence."""
        return self.base

    @property
    def digits_per_state(self) -> int:
        return self.digits.shape[1]

    @cached_property
    def transitions(self) -> Float[np.ndarray, "state next"]:
        """Probability of each next state."""
        matrix = np.zeros((self.num_states, self.num_states))
        np.add.at(matrix, (np.arange(self.num_states)[:, None], self.successors), 1.0)
        return matrix / self.successors.shape[1]

    @cached_property
    def start(self) -> Float[np.ndarray, " state"]:
        """Probability of each first state."""
        law = np.zeros(self.num_states)
        law[self.initial] = 1 / len(self.initial)
        return law

    def num_steps(self, length: int = LENGTH) -> int:
        """States that are entered in a sequence, the last one perhaps written in part."""
        return -(-(length - 1) // self.digits_per_state)

    def sample(self, random: np.random.Generator, count: int, length: int = LENGTH) -> Walks:
        """Independent walks."""
        steps = self.num_steps(length)
        states = np.empty((count, steps), np.int64)
        states[:, 0] = random.choice(self.initial, count)
        edges = random.integers(self.successors.shape[1], size=(count, steps))
        for step in range(1, steps):
            states[:, step] = self.successors[states[:, step - 1], edges[:, step]]
        return Walks(self.write(states, length), states)

    def sample_before(
        self, random: np.random.Generator, last: int, steps: int, count: int
    ) -> Int[np.ndarray, "batch steps"]:
        """States of walks of `steps` states, drawn from those that end in the state `last`.

        Raises:
            ValueError: If no walk does.
        """
        laws = [self.start]
        for _ in range(steps - 1):
            laws.append(laws[-1] @ self.transitions)
        if laws[-1][last] == 0:
            raise ValueError(f"no walk of {steps} states ends in state {last}")
        states = np.full((count, steps), last)
        for step in range(steps - 2, -1, -1):
            cumulative = np.cumsum(reverse(self.transitions, laws[step]), axis=1)
            rows = cumulative[states[:, step + 1]]
            states[:, step] = (random.random((count, 1)) * rows[:, -1:] >= rows).sum(1)
        return states

    def write(
        self, states: Int[np.ndarray, "batch steps"], length: int | None = None
    ) -> Int[np.ndarray, "batch length"]:
        """Tokens of walks, the special one first; cut to `length`."""
        written = self.digits[states].reshape(len(states), -1)
        opening = np.full((len(states), 1), self.special)
        return np.concatenate([opening, written], axis=1)[:, :length]

    def read(self, tokens: Int[np.ndarray, "batch length"]) -> Int[np.ndarray, "batch steps"]:
        """The states that sequences wrote in full; -1 where no state writes these digits.

        Raises:
            ValueError: If two states write the same.
        """
        if not self.readable:
            raise ValueError("states cannot be read from digits that two of them write")
        groups = self._groups(tokens)
        table = np.full(max(self._names.max(), groups.max(initial=0)) + 1, -1)
        table[self._names] = np.arange(self.num_states)
        return np.where(groups < 0, -1, table[groups])

    @cached_property
    def readable(self) -> bool:
        """Whether the digits name the state."""
        return len(np.unique(self._names)) == self.num_states

    def align(
        self, states: Int[np.ndarray, "batch steps"], length: int = LENGTH
    ) -> Int[np.ndarray, "batch length"]:
        """The state to which each token belongs; -1 for the special token."""
        opening = np.full((len(states), 1), -1)
        repeated = np.repeat(states, self.digits_per_state, axis=1)
        return np.concatenate([opening, repeated], axis=1)[:, :length]

    def phases(self, length: int = LENGTH) -> Int[np.ndarray, " length"]:
        """Which digit of its state each token is, from 0; -1 for the special token."""
        return np.concatenate([[-1], np.arange(length - 1) % self.digits_per_state])

    def legal(self, tokens: Int[np.ndarray, "batch length"]) -> Bool[np.ndarray, "batch step"]:
        """Whether each transition between states written in full can happen, given all before it.

        After an illegal one, any state that writes these digits is possible. Digits that no state
        writes make the transitions to and from them illegal.
        """
        groups = self._groups(tokens)
        steps = self.transitions > 0
        possible = (groups[:, :1] == self._names) & (self.start > 0)
        legal = np.empty((len(groups), groups.shape[1] - 1), bool)
        for step in range(1, groups.shape[1]):
            writes = groups[:, step : step + 1] == self._names
            reached = (possible.astype(np.float32) @ steps.astype(np.float32) > 0) & writes
            legal[:, step - 1] = reached.any(1)
            possible = np.where(legal[:, step - 1 : step], reached, writes)
        return legal

    def pairs(self) -> int:
        """Distinct (state, first digit of the next state) pairs: features of three digits."""
        firsts = self.digits[self.successors, 0]
        return sum(len(np.unique(row)) for row in firsts)

    def save(self, path: Path) -> None:
        """Write the tables as one .npz file."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                successors=self.successors,
                digits=self.digits,
                base=self.base,
                initial=self.initial,
            )

    @classmethod
    def load(cls, path: Path) -> Machine:
        """The machine that `save` wrote."""
        with np.load(path) as tables:
            return cls(
                tables["successors"], tables["digits"], int(tables["base"]), tables["initial"]
            )

    @cached_property
    def _names(self) -> Int[np.ndarray, " state"]:
        """The digits of each state as one number."""
        return self.digits @ self._powers

    @cached_property
    def _powers(self) -> Int[np.ndarray, " digit"]:
        return (self.base + 1) ** np.arange(self.digits_per_state)[::-1]

    def _groups(self, tokens: Int[np.ndarray, "batch length"]) -> Int[np.ndarray, "batch steps"]:
        """The digits between state borders as one number each."""
        steps = (tokens.shape[1] - 1) // self.digits_per_state
        written = tokens[:, 1 : 1 + steps * self.digits_per_state]
        return written.reshape(len(tokens), steps, self.digits_per_state) @ self._powers


def reverse(
    transitions: Float[np.ndarray, "state next"], law: Float[np.ndarray, " state"]
) -> Float[np.ndarray, "state previous"]:
    """Probability of each previous state, if `law` is that of the previous state.

    Rows of states that cannot follow are zero.
    """
    joint = (law[:, None] * transitions).T
    total = joint.sum(1, keepdims=True)
    return np.divide(joint, total, out=np.zeros_like(joint), where=total > 0)


def random_machine(num_states: int, base: int, num_edges: int = 10, seed: int = 42) -> Machine:
    """A machine whose states write their own number; seed 42 with 100 states is the paper's."""
    random = np.random.default_rng(seed)
    successors = [random.choice(num_states, num_edges, replace=False) for _ in range(num_states)]
    return Machine(np.stack(successors), digits_of(np.arange(num_states), num_states, base), base)


def hidden_machine(num_states: int = 100, num_edges: int = 10, seed: int = 42) -> Machine:
    """States n and n + N/2 write the same digits: only what came before tells them apart."""
    plain = random_machine(num_states, 10, num_edges, seed)
    half = num_states // 2
    return Machine(plain.successors, plain.digits[np.arange(num_states) % half])


def group_machine(num_generators: int = 10, seed: int = 42) -> Machine:
    """Products in the symmetric group S5: which needs a memory of everything before.

    A step draws one of `num_generators` permutations g, writes its number, and then where the
    product of all g so far, the latest applied last, sends 0. The products start at the identity.
    """
    group = list(permutations(range(5)))
    number = {element: index for index, element in enumerate(group)}
    chosen = np.random.default_rng(seed).choice(len(group), num_generators, replace=False)
    generators = [group[index] for index in chosen]

    def after(product: tuple[int, ...], index: int) -> int:
        """State after the generator with this number: its number and the new product."""
        moved = tuple(generators[index][place] for place in product)
        return index * len(group) + number[moved]

    following = [[after(p, index) for index in range(num_generators)] for p in group]
    successors = np.tile(np.array(following), (num_generators, 1))
    images = np.array([product[0] for product in group])
    digits = np.stack(
        [np.repeat(np.arange(num_generators), len(group)), np.tile(images, num_generators)], axis=1
    )
    return Machine(successors, digits, 10, initial=successors[number[(0, 1, 2, 3, 4)]])


def digits_of(
    numbers: Int[np.ndarray, " state"], limit: int, base: int
) -> Int[np.ndarray, "state digit"]:
    """Digits of numbers below `limit`, all equally many, the most significant first."""
    width = 1
    while base**width < limit:
        width += 1
    return numbers[:, None] // base ** np.arange(width)[::-1] % base
