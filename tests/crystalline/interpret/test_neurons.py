import numpy as np
import pytest
import torch

from crystalline.interpret.neurons import NeuronControl


def naive(vectors: torch.Tensor, wanted: np.ndarray, first: np.ndarray, hits: int) -> float:
    """Best precision on the first half of every neuron, sign and threshold at its recall."""
    best = 0.0
    for column in vectors[first].T.numpy():
        for values in (column, -column):
            threshold = np.sort(values[wanted[first]])[-hits]
            fires = values >= threshold
            best = max(best, (fires & wanted[first]).sum() / fires.sum())
    return best


@pytest.mark.parametrize("hits", [1, 7, 20])
def test_the_threshold_gives_the_requested_recall_and_the_best_precision_there_is(hits):
    generator = torch.Generator().manual_seed(hits)
    vectors = torch.randn(200, 6, generator=generator)
    first = np.arange(200) % 2 == 0
    wanted = np.zeros(200, dtype=bool)
    wanted[np.flatnonzero(first)[:20]] = True
    wanted[np.flatnonzero(~first)[:30]] = True
    vectors[:, 4] -= 1.5 * torch.from_numpy(wanted)  # a neuron that says it by being low
    neuron = NeuronControl(vectors, first).best(wanted, hits)
    assert (neuron.chosen.hits, neuron.chosen.wanted) == (hits, 20)
    assert neuron.chosen.recall == hits / 20
    assert neuron.chosen.precision == naive(vectors, wanted, first, hits)
    held_out = vectors[~first][:, neuron.index].numpy()
    fires = neuron.sign * held_out >= neuron.sign * neuron.threshold
    assert neuron.reported.fired == fires.sum()
    assert neuron.reported.hits == fires[:30].sum()
    assert neuron.reported.wanted == 30
    if hits == 7:
        assert (neuron.index, neuron.sign) == (4, -1)


def test_equal_values_give_more_hits_and_equal_neurons_the_first_one():
    vectors = torch.tensor([[1.0, 1, -1], [1, 1, -1], [0, 0, 0], [1, 1, -1]])
    first = np.array([True, True, True, False])
    wanted = np.array([True, True, False, True])
    neuron = NeuronControl(vectors, first).best(wanted, 1)
    assert (neuron.index, neuron.sign, neuron.chosen.hits) == (0, 1, 2)
    assert neuron.reported.recall == 1
