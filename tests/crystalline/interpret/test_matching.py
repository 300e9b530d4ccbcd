import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from crystalline.interpret.matching import assign


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (4, 9), (9, 4), (30, 50)])
def test_pairs_weigh_as_much_as_those_of_scipy(shape):
    weights = np.random.default_rng(0).integers(0, 20, shape).astype(float)
    columns = assign(weights)
    rows = np.flatnonzero(columns >= 0)
    assert len(rows) == len(set(columns[rows].tolist())) == min(shape)
    best = weights[linear_sum_assignment(weights, maximize=True)].sum()
    assert weights[rows, columns[rows]].sum() == best


def test_a_greedy_choice_is_given_up_for_a_better_sum():
    assert assign(np.array([[5.0, 4.0], [4.0, 0.0]])).tolist() == [1, 0]


def test_nothing_to_pair_gives_nothing():
    assert assign(np.zeros((2, 0))).tolist() == [-1, -1]
    assert assign(np.zeros((0, 3))).tolist() == []
