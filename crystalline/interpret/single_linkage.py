"""Clusters of points by single linkage, from their shortest spanning tree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class SpanningTree:
    """The shortest tree over points: what is left without its long edges is single linkage."""

    edges: Int[np.ndarray, "edges 2"]
    """Points, by rising length."""
    lengths: Float[np.ndarray, " edges"]

    def clusters(self, count: int) -> Int[np.ndarray, " n"]:
        """Labels 0, 1, ... of so many clusters, as many as there are points at most."""
        return self._labels(max(0, len(self.lengths) + 1 - count))

    def clusters_at(self, distance: float) -> Int[np.ndarray, " n"]:
        """Labels of clusters whose points are joined by steps up to `distance`."""
        return self._labels(int(np.searchsorted(self.lengths, distance, side="right")))

    def _labels(self, kept: int) -> Int[np.ndarray, " n"]:
        found = np.arange(len(self.lengths) + 1)
        for a, b in self.edges[:kept]:
            found[found == found[a]] = found[b]
        return np.unique(found, return_inverse=True)[1]


def spanning_tree(points: Float[np.ndarray, "n d"]) -> SpanningTree:
    """By Prim (1957), of Euclidean distances; time n**2 d, memory n d."""
    points = points.astype(np.float64)
    nearest, via = np.full(len(points), np.inf), np.zeros(len(points), dtype=np.int64)
    outside = np.ones(len(points), dtype=bool)
    edges, lengths, new = [], [], 0
    for _ in range(len(points) - 1):
        outside[new] = False
        distance = np.linalg.norm(points - points[new], axis=1)
        closer = outside & (distance < nearest)
        nearest[closer], via[closer] = distance[closer], new
        new = int(np.where(outside, nearest, np.inf).argmin())
        edges.append((via[new], new))
        lengths.append(nearest[new])
    order = np.argsort(lengths, kind="stable")
    found = np.array(edges, dtype=np.int64).reshape(-1, 2)[order]
    return SpanningTree(found, np.array(lengths, dtype=np.float64)[order])
