import math

import numpy as np
import pytest

from datamodules import bayes as bayes_module
from datamodules.bayes import bayes
from datamodules.machine import (
    Machine,
    digits_of,
    group_machine,
    hidden_machine,
    random_machine,
    reverse,
)

MACHINES = {
    "paper": lambda: random_machine(100, 10),
    "wide2": lambda: random_machine(128, 2),
    "wide16": lambda: random_machine(128, 16),
    "hidden": hidden_machine,
    "group": group_machine,
}


@pytest.fixture(scope="module")
def paper():
    return random_machine(100, 10)


def test_the_papers_machine_is_reproduced(paper):
    assert paper.pairs() == 686
    best = bayes(paper)
    assert best.loss == pytest.approx(1.1748, abs=1e-4)
    assert best.accuracy == pytest.approx(0.4638, abs=5e-5)
    indegree = (paper.transitions > 0).sum(0)
    assert (indegree.min(), indegree.max()) == (3, 18)
    assert sorted(np.abs(np.linalg.eigvals(paper.transitions)))[-2] == pytest.approx(
        0.306, abs=5e-4
    )


@pytest.mark.parametrize("variant", MACHINES)
def test_every_walk_is_legal_and_a_false_step_is_not(variant):
    machine = MACHINES[variant]()
    walks = machine.sample(np.random.default_rng(0), 50)
    assert walks.tokens.shape == (50, 128)
    assert (walks.tokens[:, 0] == machine.special).all()
    assert machine.legal(walks.tokens).all()
    shuffled = walks.tokens.copy()
    shuffled[:, 1:] = np.random.default_rng(1).permuted(shuffled[:, 1:], axis=1)
    assert not machine.legal(shuffled).all()


@pytest.mark.parametrize("variant", ["paper", "wide2", "wide16"])
def test_states_are_read_back_from_their_digits(variant):
    machine = MACHINES[variant]()
    walks = machine.sample(np.random.default_rng(0), 7)
    read = machine.read(walks.tokens)
    assert (read == walks.states[:, : read.shape[1]]).all()
    assert (machine.write(walks.states, 128) == walks.tokens).all()


def test_digits_that_no_state_writes_are_not_read(paper):
    tokens = np.array([[10, 1, 2, 10, 3, 4, 5]])
    assert paper.read(tokens).tolist() == [[12, -1, 45]]
    assert not paper.legal(tokens).any()


def test_a_false_transition_is_found_where_it_is(paper):
    states = paper.sample(np.random.default_rng(0), 1).states[:, :8]
    wrong = next(s for s in range(100) if s not in paper.successors[states[0, 3]])
    back = paper.successors[wrong, 0]
    states[0, 4:6] = wrong, back
    legal = paper.legal(paper.write(states))[0]
    assert legal[:3].all()
    assert not legal[3]
    assert legal[4]


def test_hidden_states_cannot_be_read_from_digits_alone():
    machine = hidden_machine()
    with pytest.raises(ValueError, match="two of them write"):
        machine.read(machine.sample(np.random.default_rng(0), 1).tokens)


def test_states_and_phases_are_aligned_with_tokens(paper):
    walks = paper.sample(np.random.default_rng(0), 3)
    states, phases = paper.align(walks.states), paper.phases()
    assert states.shape == walks.tokens.shape
    assert phases[:5].tolist() == [-1, 0, 1, 0, 1]
    assert (states[:, 0] == -1).all()
    for phase, digit in ((0, states // 10), (1, states % 10)):
        here = phases == phase
        assert (digit[:, here] == walks.tokens[:, here]).all()


@pytest.mark.parametrize("variant", MACHINES)
def test_rows_of_the_matrix_are_laws(variant):
    machine = MACHINES[variant]()
    assert machine.transitions.shape == (machine.num_states, machine.num_states)
    assert np.allclose(machine.transitions.sum(1), 1)
    assert (machine.transitions >= 0).all()


def test_a_saved_machine_is_the_same(tmp_path):
    for name, make in MACHINES.items():
        machine = make()
        machine.save(tmp_path / f"{name}.npz")
        loaded = Machine.load(tmp_path / f"{name}.npz")
        assert (loaded.transitions == machine.transitions).all()
        assert (loaded.digits == machine.digits).all()
        assert (loaded.start == machine.start).all()
        assert loaded.base == machine.base


def test_the_reverse_machine_follows_from_bayes_rule(paper):
    law = paper.start @ paper.transitions
    backwards = reverse(paper.transitions, law)
    assert np.allclose(backwards.sum(1), 1)
    after = law @ paper.transitions
    assert np.allclose(after[:, None] * backwards, (law[:, None] * paper.transitions).T)


def test_prefixes_end_where_they_should_and_are_legal(paper):
    states = paper.sample_before(np.random.default_rng(0), last=7, steps=9, count=200)
    assert states.shape == (200, 9)
    assert (states[:, -1] == 7).all()
    assert paper.legal(paper.write(states)).all()
    assert set(states[:, -2]) == set(np.flatnonzero(paper.transitions[:, 7]))
    assert paper.sample_before(np.random.default_rng(0), 7, 1, 4).tolist() == [[7]] * 4


def test_prefixes_that_cannot_be_raise():
    machine = Machine(np.array([[0], [0]]), np.array([[0], [1]]))
    with pytest.raises(ValueError, match="no walk of 2 states ends in state 1"):
        machine.sample_before(np.random.default_rng(0), 1, 2, 1)


@pytest.mark.parametrize("variant", ["hidden", "group", "wide2"])
def test_bayes_loss_is_what_an_exact_filter_pays_on_average(variant):
    machine = MACHINES[variant]()
    walks = machine.sample(np.random.default_rng(0), 400)
    nats = np.array([filtered_nats(machine, tokens) for tokens in walks.tokens[:, :41]])
    expected = bayes(machine, 41).loss
    error = nats.std() / math.sqrt(len(nats))
    assert abs(nats.mean() - expected) < 4 * error + 1e-9
    assert error < 0.02


def filtered_nats(machine, tokens):
    """Mean nats of the digits under the exact posterior, by brute force."""
    law, total = machine.start, 0.0
    width = machine.digits_per_state
    for step in range(0, len(tokens) - 1, width):
        law = law if step == 0 else law @ machine.transitions
        for place, token in enumerate(tokens[1 + step : 1 + step + width]):
            kept = law * (machine.digits[:, place] == token)
            total -= math.log(kept.sum() / law.sum())
            law = kept
        law = law / law.sum()
    return total / (len(tokens) - 1)


def test_beliefs_that_are_left_out_are_negligible():
    machine = hidden_machine()
    steps = [(bayes_module._read(machine, [(s, 0.01) for s in range(100)]), 1.0)]
    known = {}
    for _ in range(63):
        law = bayes_module._advance(steps)
        steps = [(bayes_module._step(machine, b, known), mass) for b, mass in law.items()]
    assert sum(law.values()) == pytest.approx(1, abs=1e-6)


def test_products_in_the_group_are_what_is_written():
    machine = group_machine()
    walks = machine.sample(np.random.default_rng(0), 20)
    generators = {}
    for first, state in zip(walks.tokens[:, 1], walks.states[:, 0], strict=True):
        generators.setdefault(int(first), set()).add(int(state))
    assert all(len(states) == 1 for states in generators.values())  # products start at the identity
    assert (walks.tokens[:, 2::2] < 5).all()
    assert bayes(machine).loss == pytest.approx(64 / 127 * math.log(10))


def test_digits_have_the_width_that_the_limit_needs():
    assert digits_of(np.arange(128), 128, 2).shape == (128, 7)
    assert digits_of(np.array([127]), 128, 16).tolist() == [[7, 15]]
    assert digits_of(np.array([42]), 100, 10).tolist() == [[4, 2]]
