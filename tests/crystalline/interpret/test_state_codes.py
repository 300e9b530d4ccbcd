import math

import numpy as np
import pytest
import torch

from crystalline.interpret.neurons import NeuronControl
from crystalline.interpret.reading import Reading, SiteReading
from crystalline.interpret.state_codes import (
    best_book,
    code_matrix,
    figures,
    label_codes,
    label_neurons,
    neuron_figures,
    pair_labels,
    state_labels,
)
from datamodules.machine import random_machine

STATES, LENGTH = 4, 9


@pytest.fixture(scope="module")
def walks():
    """Tokens, states and phases (N,) of 40 windows of a small machine in base 2."""
    machine = random_machine(STATES, 2, num_edges=2, seed=1)
    sampled = machine.sample(np.random.default_rng(0), 40, LENGTH)
    states = machine.align(sampled.states, LENGTH).reshape(-1)
    return sampled.tokens.reshape(-1), states, np.tile(machine.phases(LENGTH), 40)


def reading_with(tokens: np.ndarray, *sites: np.ndarray, size: int = 6) -> Reading:
    """A reading whose sites, called by their number, chose these codes (N, levels)."""
    starts = np.arange(len(tokens)) % LENGTH == 0
    where = np.arange(len(tokens))
    return Reading(
        tokens,
        starts,
        {
            str(number): SiteReading(codes.astype(np.int32), where, where, size, False)
            for number, codes in enumerate(sites)
        },
    )


def test_a_state_is_labelled_at_its_last_digit_alone(walks):
    tokens, states, phases = walks
    labels = state_labels(states, phases)
    assert ((labels >= 0) == (phases == 1)).all()
    last = np.flatnonzero(labels >= 0)
    assert (labels[last] == 2 * tokens[last - 1] + tokens[last]).all()


def test_pairs_are_the_state_before_and_the_first_digit_after_it(walks):
    tokens, states, phases = walks
    labels, names = pair_labels(states, phases, tokens)
    for position in range(len(tokens)):
        wanted = phases[position] == 0 and phases[position - 1] == 1
        assert (labels[position] >= 0) == wanted
        if wanted:
            assert names[labels[position]] == (states[position - 1], tokens[position])


def test_a_code_for_each_state_is_perfect_and_covers_all(walks):
    tokens, states, phases = walks
    labels = state_labels(states, phases)
    codes = np.where(labels >= 0, labels + 1, 0)[:, None]  # first digits have a code of their own
    [book] = label_codes(reading_with(tokens, codes), labels, STATES)
    assert [code.code for code in book.codes] == [1, 2, 3, 4]
    assert (book.code_precision, book.code_recall, book.code_coverage) == (1, 1, 1)
    assert (book.code_found, book.found_precision, book.matched_accuracy, book.purity) == (1,) * 4
    assert book.ami == pytest.approx(1)
    assert book.codes_per_label == pytest.approx(1)
    second = labels[len(labels) // 2 :]
    counts = np.bincount(second[second >= 0])
    assert book.majority == counts.max() / counts.sum()
    assert book.majority <= book.shuffled_purity < 0.6


def test_two_codes_a_state_halve_recall_and_pairing_but_not_precision(walks):
    tokens, states, phases = walks
    labels = state_labels(states, phases)
    turn = np.zeros(len(labels), dtype=int)
    for state in range(STATES):
        places = np.flatnonzero(labels == state)
        turn[places] = np.arange(len(places)) % 2
    codes = np.where(labels >= 0, 2 * labels + turn, 0)[:, None]
    [book] = label_codes(reading_with(tokens, codes, size=8), labels, STATES)
    assert book.found_precision == book.purity == 1
    assert book.code_recall == pytest.approx(0.5, abs=0.03)
    assert book.matched_accuracy == pytest.approx(0.5, abs=0.03)
    assert book.codes_per_label == pytest.approx(2, abs=0.01)


def test_figures_are_of_the_half_that_did_not_choose(walks):
    tokens, states, phases = walks
    labels = state_labels(states, phases)
    codes = np.where(labels >= 0, labels, 0)
    half = len(codes) // 2
    codes[half:] = (codes[half:] + 1) % STATES  # what was learned on the first half is wrong here
    [book] = label_codes(reading_with(tokens, codes[:, None]), labels, STATES)
    assert book.chosen_precision == 1
    assert (book.code_precision, book.code_coverage, book.matched_accuracy) == (0, 0, 0)
    assert book.code_found == 1
    assert book.purity == 1  # purity needs no choice


def test_the_best_book_is_that_of_the_first_half_and_unlabelled_sites_have_none(walks):
    tokens, states, phases = walks
    labels = state_labels(states, phases)
    good, bad = np.maximum(labels, 0), np.zeros(len(labels))
    reading = reading_with(tokens, np.stack([bad, good], 1), np.stack([good, good], 1))
    firsts = np.flatnonzero(phases == 0)
    reading.sites["starts"] = SiteReading(
        bad[firsts, None].astype(np.int32), firsts, firsts, 6, False
    )
    books = label_codes(reading, labels, STATES)
    assert [(book.site, book.level) for book in books] == [("0", 0), ("0", 1), ("1", 0), ("1", 1)]
    assert (best_book(books).site, best_book(books).level) == ("0", 1)
    assert "codes" not in figures(books[0])
    # One code for everything finds every state, as precisely as its share.
    assert books[0].code_precision == pytest.approx(1 / STATES)
    assert books[0].ami == 0


def test_neurons_are_asked_at_the_codes_recall_over_labelled_positions(walks):
    tokens, states, phases = walks
    labels = state_labels(states, phases)
    codes = np.where(labels == 3, 1, np.maximum(labels, 1))  # 1 and 3 share a code
    reading = reading_with(tokens, codes[:, None])
    [book] = label_codes(reading, labels, STATES)
    kept = labels >= 0
    vectors = torch.from_numpy(np.where(kept, labels, 9.0)).float()[:, None]

    neurons = label_neurons(reading, labels, book, lambda k, f: NeuronControl(vectors[k], f))
    assert neurons is not None
    top = neurons[3]
    assert top is not None
    assert (top.sign, top.threshold, top.reported.precision) == (1, 3.0, 1.0)
    assert top.chosen.wanted == book.codes[3].chosen.wanted
    figures_of_neurons = neuron_figures(book, neurons)
    each = [neuron.reported.precision for neuron in neurons if neuron]
    assert figures_of_neurons["neuron_precision"] == pytest.approx(sum(each) / STATES)
    has = [code.code >= 0 for code in book.codes]
    kept_ones = [value for value, found in zip(each, has, strict=True) if found]
    assert figures_of_neurons["neuron_found_precision"] == pytest.approx(
        sum(kept_ones) / len(kept_ones)
    )
    assert label_neurons(reading, labels, book, lambda *_: None) is None


def test_a_label_that_only_the_second_half_has_counts_as_zero_for_codes_and_neurons():
    tokens = np.arange(4)
    labels = np.array([0, 0, 0, 1])
    starts = np.array([True, False, True, False])
    where = np.arange(4)
    site = SiteReading(np.array([[0], [0], [0], [1]], dtype=np.int32), where, where, 2, False)
    reading = Reading(tokens, starts, {"a": site})
    [book] = label_codes(reading, labels, 2)
    assert book.code_precision == 0.5
    vectors = torch.tensor([[1.0], [1], [1], [0]])
    neurons = label_neurons(reading, labels, book, lambda k, f: NeuronControl(vectors[k], f))
    assert neurons is not None
    assert neurons[1] is None
    assert neuron_figures(book, neurons)["neuron_precision"] == 0.5
    assert not math.isnan(book.ami)


def test_the_matrix_has_pairs_on_its_diagonal_and_the_rest_by_count(walks):
    tokens, states, phases = walks
    labels = state_labels(states, phases)
    codes = np.where(labels >= 0, (labels + 1) % STATES, 5)  # a code a state, in another order
    labelled = np.flatnonzero(labels == 2)
    codes[labelled[::4]] = 4  # a quarter of state 2 has another one
    reading = reading_with(tokens, codes[:, None])
    (book,) = label_codes(reading, labels, STATES)
    matrix, columns = code_matrix(reading, labels, STATES, book)
    assert columns == [1, 2, 3, 0, 4]  # code 5 never fires at a state
    assert matrix.sum(1) == pytest.approx(np.ones(STATES))
    assert np.diag(matrix[:, :STATES])[[0, 1, 3]].tolist() == [1, 1, 1]
    assert matrix[2, 2] + matrix[2, 4] == pytest.approx(1)
    assert 0.6 < matrix[2, 2] < 0.9
    wider, _ = code_matrix(reading, labels, STATES + 1, label_codes(reading, labels, STATES + 1)[0])
    assert np.isnan(wider[STATES]).all()  # a state that was never seen
