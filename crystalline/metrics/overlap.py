"""How much of a sample is recited: its longest stretch that the training text holds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Overlap(NamedTuple):
    """The longest common stretch; the earliest in the corpus among equals."""

    length: int
    """Tokens; 0 if not one token is shared."""
    start: int
    """Index of its first token in the corpus; -1 if nothing is shared."""


def longest_overlap(
    sample: np.ndarray, corpus: np.ndarray, *, chunk_tokens: int = 1_000_000
) -> Overlap:
    """Exact longest common substring of two token sequences.

    For each token of the sample in turn, every place in the corpus that holds it continues the
    stretch that ended just before it, or begins one. Places are listed once a token type, so the
    work is the number of matching pairs, not the product of the lengths. The corpus is read in
    chunks that overlap by the sample's length: no match is cut, and memory stays bounded.

    Args:
        sample: Integer ids (n,).
        corpus: Integer ids (N,), such as a memory map; any integer dtype.
        chunk_tokens: Corpus tokens looked at together.
    """
    sample = np.asarray(sample)
    best = Overlap(0, -1)
    for begin in range(0, len(corpus), chunk_tokens):
        chunk = np.asarray(corpus[begin : begin + chunk_tokens + max(len(sample) - 1, 0)])
        found = _longest_in(sample, chunk)
        if found.length > best.length:
            best = Overlap(found.length, begin + found.start)
    return best


def _longest_in(sample: np.ndarray, chunk: np.ndarray) -> Overlap:
    places = {token: np.flatnonzero(chunk == token) + 1 for token in np.unique(sample).tolist()}
    # run[p + 1]: length of the stretch that ends at chunk[p] and at the token just handled
    run = np.zeros(len(chunk) + 1, dtype=np.int32)
    before = np.zeros(0, dtype=np.int64)
    length, end = 0, 0
    for token in sample.tolist():
        here = places[token]
        runs = run[here - 1] + 1
        run[before] = 0
        run[here] = runs
        before = here
        if len(runs) == 0:
            continue
        longest = int(runs.argmax())
        candidate = (int(runs[longest]), int(here[longest]))
        if candidate[0] > length or (candidate[0] == length and candidate[1] < end):
            length, end = candidate
    return Overlap(length, end - length) if length else Overlap(0, -1)
