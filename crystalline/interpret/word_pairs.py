"""Word-pair maps: which word pushes which, beside how often one follows the other in the text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crystalline.metrics.rank_correlation import spearman
from crystalline.models.vocab_space.readable import WordMap

_CHUNK = 1024
"""Rows of a map that are looked at together."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of words that stand at a fixed distance in some text, and how much they attract."""

    first: Int[Tensor, " pairs"]
    second: Int[Tensor, " pairs"]
    pmi: Float[Tensor, " pairs"]
    """ln of p(first, second) / (p(first) p(second)); float64."""


def text_pairs(
    windows: Iterable[Int[Tensor, "_ _"]], vocab_size: int, gap: int, min_count: int = 5
) -> Pairs:
    """Pairs of words, the second `gap` after the first; below 0: before it.

    Args:
        windows: int64 ids, (batch, pos); no pair crosses the edge of a window.
        vocab_size: V.
        gap: Distance in tokens.
        min_count: Rarer pairs are left out of the pairs, not out of the chances.
    """
    size = abs(gap)
    keys, counts = _counted([w[:, :-size] * vocab_size + w[:, size:] for w in windows])
    before, after = keys // vocab_size, keys % vocab_size
    total = counts.sum().double()
    p_before, p_after = (
        torch.zeros(vocab_size, dtype=torch.float64).index_add_(0, word, counts.double() / total)
        for word in (before, after)
    )
    pmi = (counts / total).log() - p_before[before].log() - p_after[after].log()
    kept = counts >= min_count
    ends = (before[kept], after[kept]) if gap > 0 else (after[kept], before[kept])
    return Pairs(*ends, pmi[kept])


def _counted(keys: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Distinct pairs and how often each stands there."""
    if not keys:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    return torch.cat([part.flatten().cpu() for part in keys]).unique(return_counts=True)


@torch.no_grad()
def agreement(map: WordMap, pairs: Pairs) -> float:
    """Rank correlation of M[first, second] with what the text says; NaN without pairs."""
    if len(pairs.pmi) < 2:
        return float("nan")
    device = map.left.device
    entries = map.entries(pairs.first.to(device), pairs.second.to(device))
    return spearman(entries.tolist(), pairs.pmi.tolist())


@torch.no_grad()
def asymmetry(map: WordMap) -> float:
    """Share of the squared entries that is antisymmetric, |M - M^T|^2 / (4 |M|^2).

    0: M[i, j] = M[j, i]; 1/2: nothing to do with each other; 1: M[i, j] = -M[j, i].
    """
    left, right = map.left.double(), map.right.double()
    inner = right @ left
    square = float(((left.T @ left) * (right @ right.T)).sum())  # |left right|^2
    mirrored = float((inner * inner.T).sum())  # sum of M[i, j] M[j, i]
    if map.diagonal is not None:
        own = map.diagonal.double()
        more = float((own * (2 * (left * right.T).sum(-1) + own)).sum())
        square, mirrored = square + more, mirrored + more
    return (square - mirrored) / (2 * square) if square else float("nan")


@torch.no_grad()
def strongest(
    map: WordMap, number: int
) -> tuple[list[tuple[int, int, float]], list[tuple[int, float]]]:
    """Pairs i, j with the largest |M[i, j]|, i and j different, and words with that of M[i, i]."""
    vocab_size = len(map.left)
    pairs: list[tuple[int, int, float]] = []
    own: list[tuple[int, float]] = []
    for first in range(0, vocab_size, _CHUNK):
        rows = map.rows(first, min(first + _CHUNK, vocab_size))
        own += [(first + i, value) for i, value in enumerate(rows.diagonal(first).tolist())]
        rows.diagonal(first).zero_()
        flat = rows.flatten()
        for at in flat.abs().topk(min(number, flat.numel())).indices.tolist():
            pairs.append((first + at // vocab_size, at % vocab_size, float(flat[at])))
    pairs = [pair for pair in pairs if pair[2]]
    pairs.sort(key=lambda pair: -abs(pair[2]))
    own.sort(key=lambda word: -abs(word[1]))
    return pairs[:number], own[:number]


def map_row(name: str, map: WordMap, pairs: Pairs, number: int = 5) -> dict[str, Any]:
    """What there is to say of a map.

    Args:
        name: Its path.
        map: The map.
        pairs: Of the map's own gap.
        number: Pairs and words listed.
    """
    far, own = strongest(map, number)
    return {
        "map": name,
        "gap": map.gap,
        "rank": map.left.shape[1],
        "asymmetry": asymmetry(map),
        "pmi": agreement(map, pairs),
        "pairs": far,
        "own": own,
    }
