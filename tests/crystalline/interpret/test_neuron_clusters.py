"""Clusters of neurons that are families of clones are told from clusters with a function."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from crystalline.interpret.neuron_clusters import (
    _shuffles,
    adjusted_rand_index,
    cuts,
    purity,
    sharing_test,
    study,
    token_counts,
)
from crystalline.interpret.reading import Reading, SiteReading
from tests.crystalline.interpret.growing import census

FAMILIES, MEMBERS, TOKENS = 8, 10, 30


def field(planted: str, seed: int = 0):
    """Positions, families and counts on tokens of a field.

    clones: neurons stand about their founder and fire as it does, each with noise. function: half
    of each family has moved to a place that it shares with halves of others, and fires as they do.
    """
    random = np.random.default_rng(seed)
    kin = np.repeat(np.arange(FAMILIES), MEMBERS)
    place = kin if planted == "clones" else kin % 2 * 2 + np.arange(len(kin)) % 2
    points = random.normal(size=(FAMILIES, 6))[place] * 8 + random.normal(size=(len(kin), 6)) * 0.5
    tokens = random.dirichlet(np.full(TOKENS, 0.2), size=FAMILIES)
    counts = np.stack([random.multinomial(40, tokens[p]) for p in place]).astype(float)
    return points, kin, counts


def test_pure_clones_are_their_families_and_nothing_more():
    points, kin, counts = field("clones")
    found = cuts(points, kin, counts, [1.1], 500, seed=0)
    whole, fine = found["founders"], found["1.1"]
    assert (whole["clusters"], whole["divided"]) == (FAMILIES, 0)
    assert (whole["rand_index"], whole["purity"]) == (1, 1)
    assert whole["p/family"] == 1
    assert whole["p/all"] == pytest.approx(1 / 501)  # as kin they do share
    assert "share/family" not in whole
    assert fine["divided"] > 2  # the same families cut up: pieces are as alike as kin
    assert fine["purity"] == 1
    assert fine["rand_index"] < 1
    assert fine["p/family"] > 0.05
    assert fine["p/all"] < 0.01


def test_a_function_across_families_is_found():
    points, kin, counts = field("function")
    found = cuts(points, kin, counts, [5.0], 500, seed=0)["5"]
    assert (found["clusters"], found["divided"]) == (4, FAMILIES)
    assert found["rand_index"] < 0.5
    assert found["purity"] == pytest.approx(1 / 4)
    assert found["p/family"] == found["p/all"] == pytest.approx(1 / 501)
    assert found["share/cluster"] > found["share/all"] > found["share/family"]


def test_chances_are_even_where_clusters_mean_nothing_within_families():
    random = np.random.default_rng(1)
    chances = []
    for seed in range(30):
        _, kin, counts = field("clones", seed)
        clusters = random.integers(3, size=len(kin))
        chances.append(sharing_test(counts, clusters, kin, 39, seed)["p/family"])
    assert 0.35 < np.mean(chances) < 0.65
    assert np.mean(np.array(chances) <= 0.1) < 0.25


def test_neurons_that_never_fire_are_left_out_of_the_test():
    _, kin, counts = field("clones")
    clusters = kin * 2 + np.arange(len(kin)) % 2
    silent = np.arange(0, len(kin), 3)
    heard = np.delete(np.arange(len(kin)), silent)
    wanted = sharing_test(counts[heard], clusters[heard], kin[heard], 20, 0)
    counts[silent] = 0
    assert sharing_test(counts, clusters, kin, 20, 0) == wanted
    assert wanted["tested"] == len(heard)


def test_where_there_are_no_pairs_there_are_no_figures_of_them():
    assert sharing_test(np.zeros((3, 4)), np.arange(3), np.arange(3), 9, 0) == {"tested": 0}
    alone = sharing_test(np.eye(3), np.arange(3), np.zeros(3, dtype=int), 9, 0)
    assert alone == {"tested": 3, "share/family": 0, "share/all": 0}


def test_what_two_neurons_share_is_the_overlap_of_what_they_fire_on():
    counts = np.array([[1.0, 1, 0], [5, 5, 0], [0, 2, 2]])  # 1, 1/2, 1/2
    found = sharing_test(counts, np.array([0, 0, 1]), np.array([0, 1, 1]), 9, 0)
    assert found["share/cluster"] == pytest.approx(1)
    assert found["share/family"] == pytest.approx(0.5)
    assert found["share/all"] == pytest.approx(2 / 3)


def test_neurons_are_exchanged_within_their_groups_and_all_orders_occur():
    groups = np.array([4, 1, 4, 1, 1])
    draw = _shuffles(groups, np.random.default_rng(0))
    orders = {tuple(draw().tolist()) for _ in range(300)}
    assert all((groups[list(order)] == groups).all() for order in orders)
    assert len(orders) == 2 * 6


@pytest.mark.parametrize("parts", [(1, 1), (3, 5), (12, 2)])
def test_the_rand_index_is_the_usual_one(parts):
    a, b = (np.random.default_rng(n).integers(n, size=40) * 3 for n in parts)
    assert adjusted_rand_index(a, b) == pytest.approx(adjusted_rand_score(a, b))
    assert adjusted_rand_index(a, a) == 1


def test_purity_counts_the_commonest_label_of_each_cluster():
    assert purity(np.array([0, 0, 0, 1, 1]), np.array([7, 7, 9, 9, 7])) == pytest.approx(3 / 5)


def reading() -> Reading:
    """Six tokens; a site of one book names two of its rows 2, 5, 9 at each."""
    codes = np.array([[2, 5], [5, 2], [5, 5], [9, 2], [2, 9], [9, 9]], dtype=np.int32)
    where = np.arange(6)
    site = SiteReading(codes, where, where, codebook_size=12, shared=True)
    tokens = np.array([7, 3, 3, 7, 7, 3])
    return Reading(tokens, np.arange(6) == 0, {"field": site})


def test_tokens_are_counted_once_a_position():
    found = token_counts(reading(), "field", np.array([2, 9, 10]))
    assert found.tolist() == [[1, 3], [1, 2], [0, 0]]  # columns: tokens 3 and 7


def test_a_study_tells_every_field_and_a_table():
    members = census([2, 5, 9], [-1, 2, -1])
    members["positions"] = torch.tensor([[0.0], [1.0], [9.0]])
    found, table = study({"field": members}, reading(), [0.5], permutations=9, seed=0)
    assert list(found["field"]) == ["founders", "0.5"]
    assert found["field"]["founders"]["clusters"] == found["field"]["founders"]["families"] == 2
    assert found["field"]["founders"]["rand_index"] == 1
    assert found["field"]["0.5"]["clusters"] == 3
    head, first, second = (line.split() for line in table.splitlines())
    assert head[:4] == ["field", "cut", "neurons", "families"]
    assert (first[:2], second[:2]) == (["field", "founders"], ["field", "0.5"])
    assert study({}, reading(), [0.5], 9, 0) == ({}, "")
