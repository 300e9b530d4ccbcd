"""Clusters by single linkage are those of a slow definition."""

import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from crystalline.interpret.single_linkage import spanning_tree

POINTS = np.random.default_rng(0).normal(size=(60, 3))


@pytest.mark.parametrize("count", [1, 7, 60])
def test_a_number_of_clusters_is_as_agglomeration_finds_it(count):
    slow = AgglomerativeClustering(n_clusters=count, linkage="single").fit_predict(POINTS)
    found = spanning_tree(POINTS).clusters(count)
    assert sorted(set(found)) == list(range(count))
    assert adjusted_rand_score(slow, found) == 1


def test_clusters_at_a_distance_are_joined_by_steps_up_to_it():
    points = np.array([[0.0], [1.0], [3.0], [2.0], [9.0], [7.5]])
    tree = spanning_tree(points)
    assert tree.lengths.tolist() == [1, 1, 1, 1.5, 4.5]
    assert tree.clusters_at(0.9).tolist() == [0, 1, 2, 3, 4, 5]
    groups = tree.clusters_at(1.0)
    assert len(set(groups[:4])) == 1
    assert len(set(groups)) == 3
    assert len(set(tree.clusters_at(1.5))) == 2
    assert set(tree.clusters_at(4.5)) == {0}


def test_more_clusters_than_points_are_as_many_as_points():
    assert spanning_tree(np.zeros((1, 2))).clusters(3).tolist() == [0]
    assert sorted(spanning_tree(POINTS[:2]).clusters(3)) == [0, 1]
