"""Do codes mean anything? Their agreement with labels, beside what chance and clustering reach.

Purity and mutual information rise with the number of codes even when the codes are random, so every
figure comes with the same figure of five references that have as many codes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crystalline.interpret.information import (
    adjusted_mutual_information,
    conditional_information,
    contingency,
    entropy,
    join,
    mutual_information,
    normalized_mutual_information,
    purity,
)
from crystalline.interpret.labels import UNDEFINED, TokenTraits, site_labels, token_classes
from crystalline.interpret.reading import Reading, SiteReading
from crystalline.quantizers.kmeans import kmeans
from crystalline.quantizers.search import nearest

_BITS = 1 / float(np.log(2))
_FIT_POSITIONS = 20_000
_CHUNK = 8192

Scores = dict[str, float]
"""Figures by name."""

Levels = list[dict[str, Scores]]
"""For each level, scores by labelling."""


def score(codes: np.ndarray, labels: np.ndarray) -> Scores:
    """Agreement of codes (N,) with labels (N,).

    `label_bits` is H(Y), `explained_bits` H(Y) - H(Y|C).
    """
    table = contingency(codes, labels)
    return {
        "purity": purity(table),
        "nmi": normalized_mutual_information(table),
        "ami": adjusted_mutual_information(table),
        "label_bits": entropy(table.column_sums) * _BITS,
        "explained_bits": mutual_information(table) * _BITS,
    }


def contextual_bits(
    codes: np.ndarray, labels: np.ndarray, tokens: np.ndarray, generator: np.random.Generator
) -> Scores:
    """What a code says about the label beyond the token itself: I(C; Y | token), in bits.

    Only positions whose token type has two labels or more count; a code that memorises the token
    scores 0. The estimate is biased upwards, so `contextual_chance_bits` repeats it with codes
    shuffled among the positions of the same token; the difference is what the code adds.
    """
    types, token_ids = np.unique(tokens, return_inverse=True)
    pairs = np.unique(join(tokens, labels), return_index=True)[1]
    ambiguous = np.bincount(token_ids[pairs], minlength=len(types)) >= 2
    kept = ambiguous[token_ids]
    codes, labels, token_ids = codes[kept], labels[kept], token_ids[kept]
    order = np.argsort(token_ids, kind="stable")
    shuffled = np.empty_like(codes)
    shuffled[order] = codes[np.lexsort((generator.random(len(codes)), token_ids))]
    return {
        "contextual_positions": float(len(codes)),
        "contextual_bits": conditional_information(codes, labels, token_ids) * _BITS,
        "contextual_chance_bits": conditional_information(shuffled, labels, token_ids) * _BITS,
    }


def site_coherence(
    reading: Reading, site: SiteReading, traits: TokenTraits, *, seed: int = 0
) -> dict[str, Levels]:
    """Agreement of one site's codes with every labelling of `labels.site_labels`.

    Args:
        reading: The text.
        site: One of its sites.
        traits: `token_traits` of the tokenizer.
        seed: Of the shuffles; no global random state is touched.

    Returns:
        `levels[l]` is about the codes of level l alone. `prefixes[l]` is about the tuples
        (c_0..c_l) and holds `increment_bits`, what level l adds; empty for a single level.
    """
    labels = site_labels(reading, site, traits, token_classes(reading, traits))
    tokens = reading.tokens[site.last]
    levels = _own_levels(site, labels, tokens, seed)
    if site.num_levels == 1:
        return {"levels": levels, "prefixes": []}
    prefixes = _prefixes(site.indices, labels, tokens, levels[0], seed)
    return {"levels": levels, "prefixes": prefixes}


def site_references(
    reading: Reading,
    site: SiteReading,
    traits: TokenTraits,
    *,
    inputs: Float[Tensor, "pos d"] | None = None,
    embedding: Float[Tensor, "vocab d_model"] | None = None,
    seed: int = 0,
) -> dict[str, Levels]:
    """What a site's figures are to be compared with, on the same positions.

    Args:
        reading: The text.
        site: One of its sites.
        traits: `token_traits` of the tokenizer.
        inputs: What the site had to code, a vector a position (`reading.read_inputs`); without it
            `random_projection` and `kmeans_inputs` are left out.
        embedding: The model's token embeddings; without them `kmeans_embedding` is left out.
        seed: Of shuffles, projections and k-means; no global random state is touched.

    Returns:
        Figures by name, a list of levels each: `site` itself; `shuffled_labels` (chance for its
        first level); `random_projection`, `kmeans_inputs` and `kmeans_embedding`, with the site's
        codebook size (k-means also with its levels); `token_majority`, an oracle that knows each
        token's commonest label and no context.
    """
    labels = site_labels(reading, site, traits, token_classes(reading, traits))
    tokens = reading.tokens[site.last]
    codes, position = site.level(0)
    generator = np.random.default_rng(seed)
    shuffled = {name: _shuffle(values, generator) for name, values in labels.items()}
    figures = {
        "site": _own_levels(site, labels, tokens, seed),
        "shuffled_labels": [_all_labels(codes, shuffled, tokens, position, seed)],
        "token_majority": [{name: _majority(tokens, values) for name, values in labels.items()}],
    }
    for name, assigned in _assignments(site, tokens, inputs, embedding, seed):
        figures[name] = [_all_labels(level, labels, tokens, None, seed) for level in assigned.T]
    return figures


def random_projection(
    points: Float[Tensor, "n d"], k: int, generator: torch.Generator
) -> Int[Tensor, " n"]:
    """A code by chance directions: which of k random unit vectors a centred point leans to most."""
    points = points.float()
    directions = torch.randn(k, points.shape[1], generator=generator).to(points.device)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    mean = points.mean(0)
    parts = [((part - mean) @ directions.T).argmax(-1) for part in points.split(_CHUNK)]
    return torch.cat(parts)


def residual_kmeans(
    points: Float[Tensor, "n d"], k: int, levels: int, generator: torch.Generator
) -> Int[Tensor, "n levels"]:
    """k-means codes level by level, each on what the levels before it left over.

    Centroids are fitted to 20,000 points (at least 20 k) drawn at random and serve all points.
    """
    residual, chosen = points.float(), []
    fitted = torch.randperm(len(points), generator=generator)[: max(_FIT_POSITIONS, 20 * k)]
    for _ in range(levels):
        centroids = kmeans(residual[fitted.to(points.device)], k, generator=generator)
        codes = nearest(residual, centroids)
        residual = residual - centroids[codes]
        chosen.append(codes)
    return torch.stack(chosen, dim=1)


def _assignments(
    site: SiteReading,
    tokens: np.ndarray,
    inputs: Tensor | None,
    embedding: Tensor | None,
    seed: int,
) -> Iterator[tuple[str, np.ndarray]]:
    """Codes (P, levels) of the references that need vectors, with as many codes as the site."""
    if not len(tokens):
        return
    k, levels = site.codebook_size, site.num_levels
    generator = torch.Generator().manual_seed(seed)
    if inputs is not None:
        yield "random_projection", random_projection(inputs, k, generator)[:, None].cpu().numpy()
        yield "kmeans_inputs", residual_kmeans(inputs, k, levels, generator).cpu().numpy()
    if embedding is not None:
        static = embedding.detach().float()
        vectors = static[torch.from_numpy(tokens).to(static.device)]
        yield "kmeans_embedding", residual_kmeans(vectors, k, levels, generator).cpu().numpy()


def _own_levels(
    site: SiteReading, labels: dict[str, np.ndarray], tokens: np.ndarray, seed: int
) -> Levels:
    own = (site.level(level) for level in range(site.num_levels))
    return [_all_labels(codes, labels, tokens, position, seed) for codes, position in own]


def _all_labels(
    codes: np.ndarray,
    labels: dict[str, np.ndarray],
    tokens: np.ndarray,
    position: np.ndarray | None,
    seed: int,
) -> dict[str, Scores]:
    """Scores of codes (E,) for every labelling; entry e is about `position[e]` (None: e)."""
    generator = np.random.default_rng(seed)
    scores = {}
    for name, values in labels.items():
        label = values if position is None else values[position]
        token = tokens if position is None else tokens[position]
        known = label != UNDEFINED
        scores[name] = score(codes[known], label[known])
        if name != "token":  # a token is never ambiguous about itself
            scores[name] |= contextual_bits(codes[known], label[known], token[known], generator)
    return scores


def _prefixes(
    indices: np.ndarray,
    labels: dict[str, np.ndarray],
    tokens: np.ndarray,
    first: dict[str, Scores],
    seed: int,
) -> Levels:
    """Scores of the tuples (c_0), (c_0, c_1), ... and what each level adds to the one before.

    `first` are the scores of (c_0).
    """
    prefix, result = indices[:, 0], [{name: dict(values) for name, values in first.items()}]
    for values in result[0].values():
        values["increment_bits"] = values["explained_bits"]
    for level in range(1, indices.shape[1]):
        prefix = join(prefix, indices[:, level])
        scores = _all_labels(prefix, labels, tokens, None, seed)
        for name, values in scores.items():
            values["increment_bits"] = values["explained_bits"] - result[-1][name]["explained_bits"]
        result.append(scores)
    return result


def _shuffle(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Permute the labels that are defined among themselves."""
    shuffled, known = labels.copy(), labels != UNDEFINED
    shuffled[known] = generator.permutation(labels[known])
    return shuffled


def _majority(tokens: np.ndarray, labels: np.ndarray) -> Scores:
    """Scores of a code that only knows each token type's commonest label."""
    known = labels != UNDEFINED
    tokens, labels = tokens[known], labels[known]
    if not len(tokens):
        return score(tokens, labels)
    table = contingency(tokens, labels)
    values = np.unique(labels)
    order = np.lexsort((-table.cells, table.rows))
    firsts = order[np.flatnonzero(np.diff(table.rows[order], prepend=-1))]
    commonest = values[table.columns[firsts]]
    return score(commonest[np.unique(tokens, return_inverse=True)[1]], labels)
