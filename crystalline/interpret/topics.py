"""Topic codes: codes that fire all over a text about something (spec 9).

A candidate fires on a large share of the tokens of one sequence with a keyword. Whether it tells
the topic is asked on other sequences: how well does "it fires on more than 30 % of the tokens"
separate sequences with a keyword from those without?
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor, from_numpy

from crystalline.errors import UserError
from crystalline.interpret.code_search import book_counts, first_half, matched_tokens
from crystalline.interpret.reading import Reading
from crystalline.metrics.code_precision import Counts
from crystalline.tokenizer import Tokenizer

FIRES = 0.3
"""A code is on in a sequence if it fires on more than this share of its positions."""
MIN_PRECISION = 0.01
"""A candidate spends at least this share of its firings in the first half on one sequence."""


@dataclass(frozen=True)
class TopicCode:
    """A code and how well it tells the topic; AUC 0.5 is chance."""

    site: str
    level: int
    code: int
    share: float
    """Of the tokens of that sequence of the first half where it fires most."""
    chosen_auc: float
    """On the first half of the sequences, by which codes are ranked."""
    auc: float
    """On the second half: (share of topic sequences where it is on + share of the others where it
    is off) / 2, which is the area under the curve of a yes-or-no answer."""
    on_topic: float
    """Share of the second half's topic sequences where it is on."""
    off_topic: float
    """Share of its other sequences where it is on."""


def topic_pattern(words: Sequence[str]) -> re.Pattern[str]:
    """One of `words` as a whole word, in any case."""
    return re.compile(rf"\b(?:{'|'.join(re.escape(word) for word in words)})\b", re.IGNORECASE)


def topic_sequences(reading: Reading, tokenizer: Tokenizer, keywords: Sequence[str]) -> np.ndarray:
    """Which windows (W,) bool hold one of the keywords, as a whole word in any case.

    Raises:
        UserError: If one half has no window with a keyword, or none without.
    """
    marked = matched_tokens(reading, tokenizer, topic_pattern(keywords))
    window = _windows(reading)
    on = np.bincount(window, weights=marked) > 0
    first = first_half(reading)[reading.window_start]
    for half in (on[first], on[~first]):
        if half.all() or not half.any():
            raise UserError(
                f"topic=[{','.join(keywords)}]: {int(half.sum())} of {len(half)} sequences of a "
                "half hold a keyword; give others, or more sequences"
            )
    return on


def topic_codes(
    reading: Reading, topics: Sequence[np.ndarray], *, min_share: float = 0.2, most: int = 5
) -> list[list[TopicCode]]:
    """For each topic the codes that tell its sequences from others.

    Args:
        reading: What was read.
        topics: `topic_sequences` of each.
        min_share: A candidate fires on more than this share of the tokens of a topic sequence of
            the first half (0.2 as in the authors' tool; 0.5 in their paper).
        most: Codes kept of each book.

    Returns:
        By falling AUC on the first half, above 0.5; then in the order of books and codes.
    """
    window, first = _windows(reading), from_numpy(first_half(reading)[reading.window_start])
    found: list[list[TopicCode]] = [[] for _ in topics]
    for name, site in reading.sites.items():
        labels, everywhere = window[site.last], np.ones(len(site.last), dtype=bool)
        for level in range(site.num_levels):
            counts = book_counts(site, level, labels, len(first), everywhere)
            for on, codes in zip(topics, found, strict=True):
                own = _of_book(name, level, counts, from_numpy(on), first, min_share)
                codes.extend(own[:most])
    return [sorted(codes, key=lambda code: -code.chosen_auc) for codes in found]


def _of_book(
    site: str,
    level: int,
    counts: Counts,
    topic: Bool[Tensor, " sequence"],
    first: Bool[Tensor, " sequence"],
    min_share: float,
) -> list[TopicCode]:
    """Topic codes of one book from its counts by sequence, the best one first."""
    share, fired = counts.recall, counts.joint[:, first].sum(1, keepdim=True)
    precise = (counts.joint >= MIN_PRECISION * fired) & (counts.joint > 0)
    strong = (share > min_share) & precise & topic & first
    fires = share > FIRES
    chosen, _, _ = _auc(fires[:, first], topic[first])
    held_out = _auc(fires[:, ~first], topic[~first])
    most_share = share[:, topic & first].amax(1)
    codes = (strong.any(1) & (chosen > 0.5)).nonzero()[:, 0].tolist()
    codes.sort(key=lambda code: -float(chosen[code]))
    return [
        TopicCode(
            site,
            level,
            code,
            *(float(figure[code]) for figure in (most_share, chosen, *held_out)),
        )
        for code in codes
    ]


def _windows(reading: Reading) -> np.ndarray:
    """Number (N,) of the window of each token."""
    return np.cumsum(reading.window_start) - 1


def _auc(
    fires: Bool[Tensor, "codebook_size sequence"], topic: Bool[Tensor, " sequence"]
) -> tuple[Float[Tensor, " codebook_size"], ...]:
    """Of each code: AUC, share of topic sequences and share of others where it is on."""
    on_topic = fires[:, topic].double().mean(1)
    off_topic = fires[:, ~topic].double().mean(1)
    return (on_topic + 1 - off_topic) / 2, on_topic, off_topic
