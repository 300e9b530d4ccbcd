"""An n-gram model of token ids: what counting reaches, for models to be measured against.

Interpolated Kneser-Ney (Kneser and Ney 1995; Chen and Goodman 1999, section 2.7):

    P_k(w | h) = max(c(h w) - D_k, 0) / c(h .) + D_k N(h) / c(h .) P_{k-1}(w | h without its first)

c counts occurrences in the highest order and distinct tokens before h w in lower ones, N(h) how
many tokens follow h, D_k = n_1 / (n_1 + 2 n_2) of the k-grams that count 1 and 2; P_0 = 1 / V.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer

Ids = Int[np.ndarray, "..."]


class Level(NamedTuple):
    """All k-grams of the training text; a k-gram is a (k-1)-gram, its context, and a token."""

    keys: Int[np.ndarray, " grams"]
    """context V + token, ascending; the index of a key is the number of the k-gram."""
    counts: Float[np.ndarray, " grams"]
    """c(h w)."""
    totals: Float[np.ndarray, " contexts"]
    """c(h .) by number of the context."""
    followers: Float[np.ndarray, " contexts"]
    """N(h)."""
    discount: float
    """D_k, in (0, 1]."""

    def find(self, contexts: Ids, tokens: Ids, vocab_size: int) -> Ids:
        """Numbers of k-grams; -1 where they, or their contexts, were not seen."""
        keys = contexts * vocab_size + tokens
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where((contexts >= 0) & (self.keys[places] == keys), places, -1)


class NGram:
    """Counts of all n-grams up to `order` in a text, or in rows that do not follow each other.

    What opens each of several rows is a context and nothing that is predicted. In lower orders what
    only opens rows has its own counts, and what stands within rows too counts left neighbours.

    Args:
        tokens: The text, or rows of one length, ids in [0, vocab_size); more than `order` of them.
        vocab_size: V.
        order: Longest n-gram n; 1 knows frequencies alone.

    Raises:
        ValueError: If `order` is below 1 or the text is too short.
    """

    def __init__(
        self, tokens: Integer[np.ndarray, "*rows pos"], vocab_size: int, order: int
    ) -> None:
        length = tokens.shape[-1]
        if not 1 <= order < length:
            raise ValueError(f"n-grams of order {order} need more ids than that, got {length}")
        self.vocab_size = vocab_size
        self.order = order
        ids = np.atleast_2d(np.asarray(tokens, dtype=np.int64))
        several = len(ids) > 1
        self.levels: list[Level] = []
        contexts, sizes = np.zeros_like(ids), [1]  # number of the (k-1)-gram before each token
        shorter = contexts  # number of the (k-1)-gram that ends with each token
        for k in range(1, order + 1):
            keys, first, numbers = np.unique(
                (contexts * vocab_size + ids).ravel(), return_index=True, return_inverse=True
            )
            numbers = numbers.reshape(ids.shape)
            if k > 1:  # lower orders count left neighbours, known only now
                below = self.levels[-1]
                neighbours = np.bincount(shorter.ravel()[first], minlength=len(below.keys))
                if several and k > 2:  # what only opens rows has no neighbours: its own counts
                    opening = np.bincount(contexts[:, 0], minlength=len(below.keys))
                    neighbours = np.where(neighbours > 0, neighbours, opening)
                self.levels[-1] = _level(below.keys, neighbours, vocab_size, sizes[-2])
            counted = numbers[:, 1:] if several and k == 1 else numbers
            counts = np.bincount(counted.ravel(), minlength=len(keys))
            self.levels.append(_level(keys, counts, vocab_size, sizes[-1]))
            sizes.append(len(keys))
            contexts, ids, shorter = numbers[:, :-1], ids[:, 1:], numbers[:, 1:]

    def probabilities(
        self, tokens: Int[np.ndarray, "batch pos"], targets: Int[np.ndarray, "batch pos"]
    ) -> Float[np.ndarray, "batch pos"]:
        """P(target | up to n - 1 tokens before it, none from before its row); float64."""
        found = np.full(targets.shape, 1 / self.vocab_size)
        for k, level in enumerate(self.levels, 1):
            start = max(0, k - 2)  # of the first target with k - 1 tokens before it
            contexts = self._contexts(tokens, k - 1)
            wanted = targets[:, start:]
            grams = level.find(contexts, wanted, self.vocab_size)
            counts = np.where(grams >= 0, level.counts[grams], 0.0)
            totals = np.where(contexts >= 0, level.totals[contexts], 0.0)
            known = totals > 0
            totals = np.where(known, totals, 1.0)
            left = level.discount * level.followers[contexts] / totals
            mixed = np.maximum(counts - level.discount, 0) / totals + left * found[:, start:]
            found[:, start:] = np.where(known, mixed, found[:, start:])
        return found

    def matched(self, tokens: Int[np.ndarray, "batch pos"]) -> Int[np.ndarray, "batch pos"]:
        """Length of the longest context that ends with each token and that the text goes on from.

        Up to n - 1 tokens, none from before its row; int64.
        """
        found = np.zeros(tokens.shape, np.int64)
        for length, level in enumerate(self.levels[1:], 1):
            contexts = self._contexts(tokens, length)
            first = np.searchsorted(level.keys, contexts * self.vocab_size)
            first = np.minimum(first, len(level.keys) - 1)
            followed = level.keys[first] // self.vocab_size == contexts  # not so at the text's end
            found[:, length - 1 :][followed] = length
        return found

    def _contexts(self, tokens: Int[np.ndarray, "batch pos"], length: int) -> Ids:
        """Number of the n-gram of `length` that ends at each token, from the first whole one on."""
        numbers = np.zeros_like(tokens)
        for done, level in enumerate(self.levels[:length]):
            before = numbers[:, :-1] if done else numbers
            numbers = level.find(before, tokens[:, done:], self.vocab_size)
        return numbers


def _level(keys: Ids, counts: Ids, vocab_size: int, num_contexts: int) -> Level:
    contexts = keys // vocab_size
    weights = counts.astype(np.float64)
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return Level(
        keys,
        weights,
        np.bincount(contexts, weights=weights, minlength=num_contexts),
        np.bincount(contexts, weights=weights > 0, minlength=num_contexts),
        once / (once + 2 * twice) if once else 0.5,  # none left out would leave nothing for others
    )
