"""Are clusters of a field's neurons more than families of clones?

A child is born beside its parent, so clusters of positions are families unless training moves
neurons about. A cluster says something of its own only if its members share what they fire on more
than members of the same families that ended in other clusters: labels are permuted within families.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from crystalline.interpret.growth_frames import families
from crystalline.interpret.reading import Reading
from crystalline.interpret.single_linkage import spanning_tree
from crystalline.text_table import text_table

_SLACK = 1e-9
"""Relative; sums of the same numbers in another order are equal, whatever rounding says."""

Cuts = dict[str, dict[str, float]]
"""Figures of each way to cut a field into clusters."""


def study(
    census: Mapping[str, Mapping[str, Tensor]],
    reading: Reading,
    distances: Sequence[float],
    permutations: int,
    seed: int,
) -> tuple[dict[str, Cuts], str]:
    """Figures of every field by its site, and a table of them; see `cuts`.

    Args:
        census: Of a model that grows (`LanguageModel.census`).
        reading: Text that the same model has read.
        distances: At which fields are cut, besides into as many clusters as there are founders.
        permutations: See `sharing_test`.
        seed: Of the permutations.
    """
    found = {}
    for site, members in census.items():
        row, parent, points = (members[k].numpy() for k in ("row", "parent", "positions"))
        counts = token_counts(reading, site, row)
        found[site] = cuts(points, families(row, parent), counts, distances, permutations, seed)
    rows = [
        {"field": site, "cut": cut} | {name: figures.get(name, "") for name in COLUMNS}
        for site, by_cut in found.items()
        for cut, figures in by_cut.items()
    ]
    return found, text_table(rows) if rows else ""


COLUMNS = ("neurons", "families", "clusters", "divided", "rand_index", "purity",
           "tested", "share/cluster", "share/family", "share/all", "p/family", "p/all")  # fmt: skip
"""Figures of a cut; those of `sharing_test` are missing where there is nothing to compare."""


def cuts(
    points: Float[np.ndarray, "n d"],
    kin: Int[np.ndarray, " n"],
    counts: Float[np.ndarray, "n tokens"],
    distances: Sequence[float],
    permutations: int,
    seed: int,
) -> Cuts:
    """Figures of "founders", as many clusters as families, and of each distance ("2.5").

    `divided`: families in several clusters; `rand_index` (adjusted) and `purity` of clusters
    against families; and those of `sharing_test`.

    Args:
        points: Positions of the neurons.
        kin: Family of each.
        counts: How often each fired on each token.
        distances: In units of the positions.
        permutations: See `sharing_test`.
        seed: Of the permutations.
    """
    tree = spanning_tree(points)
    labels = {"founders": tree.clusters(len(np.unique(kin)))}
    labels |= {f"{distance:g}": tree.clusters_at(distance) for distance in distances}
    found = {}
    for name, clusters in labels.items():
        table = _contingency(clusters, kin)
        found[name] = {
            "neurons": len(kin),
            "families": table.shape[1],
            "clusters": table.shape[0],
            "divided": int(((table > 0).sum(0) > 1).sum()),
            "rand_index": adjusted_rand_index(clusters, kin),
            "purity": purity(clusters, kin),
            **sharing_test(counts, clusters, kin, permutations, seed),
        }
    return found


def adjusted_rand_index(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " n"]) -> float:
    """Agreement of two partitions (Hubert and Arabie 1985): 1 the same, 0 as by chance."""
    table = _contingency(a, b)
    pairs, rows, columns = (
        float((counts * (counts - 1) / 2).sum()) for counts in (table, table.sum(1), table.sum(0))
    )
    total = len(a) * (len(a) - 1) / 2
    expected = rows * columns / total if total else 0.0
    most = (rows + columns) / 2
    return 1.0 if most == expected else (pairs - expected) / (most - expected)


def purity(clusters: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """Share of points whose label is the commonest one of their cluster."""
    return float(_contingency(clusters, labels).max(1).sum()) / len(clusters)


def _contingency(a: np.ndarray, b: np.ndarray) -> Int[np.ndarray, "of_a of_b"]:
    (names_a, rows), (names_b, columns) = (np.unique(x, return_inverse=True) for x in (a, b))
    flat = np.bincount(rows * len(names_b) + columns, minlength=len(names_a) * len(names_b))
    return flat.reshape(len(names_a), len(names_b))


def token_counts(
    reading: Reading, site: str, rows: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n used"]:
    """How often each neuron was named on each token id that occurs in the text.

    Args:
        reading: A text and the codes of `site`, which are rows of its neurons.
        site: A site whose codes come from one book.
        rows: Rising; neurons that are not among them do not count.
    """
    codes, places = reading.sites[site].level(0)
    names, tokens = np.unique(reading.tokens, return_inverse=True)
    known = np.isin(codes, rows)
    keys = np.searchsorted(rows, codes[known]) * len(names)
    keys += tokens[reading.sites[site].last[places[known]]]
    counts = np.bincount(keys, minlength=len(rows) * len(names))
    return counts.reshape(len(rows), len(names)).astype(np.float64)


def sharing_test(
    counts: Float[np.ndarray, "n tokens"],
    clusters: Int[np.ndarray, " n"],
    kin: Int[np.ndarray, " n"],
    permutations: int,
    seed: int,
) -> dict[str, float]:
    """Do neurons of a cluster share what they fire on?

    Two neurons share the Bhattacharyya coefficient of their distributions over tokens, 0 to 1.
    `share/cluster`: its mean over pairs of one cluster; `share/family`: of one family but different
    clusters; `share/all`: of all pairs; a mean over no pairs is left out. `p/family` and `p/all`:
    one-sided chance of so large a `share/cluster` if neurons of a family, or all of them, were
    exchanged at random. Where no family is divided `p/family` is 1: nothing is left to ask.
    Neurons that never fired are left out; `tested` are the others.
    """
    fired = counts.sum(1) > 0
    counts, clusters, kin = counts[fired], clusters[fired], kin[fired]
    found: dict[str, float] = {"tested": int(fired.sum())}
    points = np.sqrt(counts / counts.sum(1, keepdims=True))
    shared = points @ points.T
    same, family = clusters[:, None] == clusters, kin[:, None] == kin
    pairs = ~np.eye(len(points), dtype=bool)
    for name, chosen in (("cluster", same), ("family", family & ~same), ("all", pairs)):
        if (chosen & pairs).any():
            found[f"share/{name}"] = float(shared[chosen & pairs].mean())
    if "share/cluster" not in found:
        return found
    if points.shape[1] > len(points):  # as many coordinates as neurons give the same products
        values, axes = np.linalg.eigh(shared)
        points = axes * np.sqrt(values.clip(min=0))
    random = np.random.default_rng(seed)
    for name, groups in (("family", kin), ("all", np.zeros_like(kin))):
        divided = name == "all" or "share/family" in found
        shuffle = _shuffles(groups, random)
        found[f"p/{name}"] = _chance(points, clusters, shuffle, permutations) if divided else 1.0
    return found


def _shuffles(
    groups: Int[np.ndarray, " n"], random: np.random.Generator
) -> Callable[[], Int[np.ndarray, " n"]]:
    """Each call draws an order that keeps every place in its group."""
    places = np.argsort(groups, kind="stable")
    named = np.unique(groups, return_inverse=True)[1].astype(np.float64)

    def draw() -> Int[np.ndarray, " n"]:
        order = np.empty_like(places)
        order[places] = np.argsort(named + 0.999 * random.random(len(groups)))
        return order

    return draw


def _chance(
    points: Float[np.ndarray, "n d"],
    clusters: Int[np.ndarray, " n"],
    shuffle: Callable[[], Int[np.ndarray, " n"]],
    permutations: int,
) -> float:
    """Share of permutations after which pairs of one cluster share as much as they do."""
    order = np.argsort(clusters, kind="stable")
    starts = np.unique(clusters[order], return_index=True)[1]

    def sharing(points: np.ndarray) -> float:
        """Over all pairs of one cluster: the squared length of the sum of its members."""
        sums = np.add.reduceat(points, starts, axis=0)
        return float((sums * sums).sum())

    observed = sharing(points[order])
    limit = observed * (1 - _SLACK)
    hits = sum(sharing(points[shuffle()[order]]) >= limit for _ in range(permutations))
    return (1 + hits) / (1 + permutations)
