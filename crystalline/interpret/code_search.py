"""Code search: which codes fire where a regular expression matches (spec 9).

With A the positions where a code fires and P those that the pattern marks, precision is |A & P|/|A|
and recall |A & P|/|P|. Codes are chosen on the first half of the windows and reported on the second
(Tamkin et al. 2023, arXiv:2310.17230, report the data they chose on, which is optimistic).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from crystalline.errors import UserError
from crystalline.interpret.labels import any_in_span
from crystalline.interpret.neurons import Neuron, NeuronControl
from crystalline.interpret.reading import Reading, SiteReading
from crystalline.metrics.code_precision import Counts, Score, count
from crystalline.tokenizer import Tokenizer

MIN_RECALL = 0.01
"""A code must find more than this share of the marked positions."""
MIN_PRECISION = 0.5
"""A code must be right more often than this."""


@dataclass(frozen=True)
class CodeMatch:
    """A code that tells where a pattern matches."""

    site: str
    level: int
    code: int
    chosen: Score
    """On the first half, on which it was chosen."""
    reported: Score
    """On the second half: the figures to quote."""
    neuron: Neuron | None = None
    """The best coordinate of what the site reads, at the recall of `chosen`."""


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression.

    Raises:
        UserError: If it is none.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"pattern={pattern}: not a regular expression ({error}); write \\( for a bracket itself"
        ) from None


def matched_tokens(reading: Reading, tokenizer: Tokenizer, pattern: re.Pattern[str]) -> np.ndarray:
    r"""Which tokens (N,) bool hold a character of a match: of its group 1, if there is one.

    Windows are searched one by one, as the model reads them. A special token reads as a line break,
    bytes that are no UTF-8 as lone surrogates. Matches do not overlap; to find "11" in "111" twice,
    look behind: `(?<=1)1`.
    """
    group = 1 if pattern.groups else 0
    pieces = [tokenizer.token_bytes(token) or b"\n" for token in range(tokenizer.vocab_size)]
    marked = np.zeros(len(reading.tokens), dtype=bool)
    starts = np.flatnonzero(reading.window_start)
    for start, stop in zip(starts, [*starts[1:], len(reading.tokens)], strict=True):
        written = [pieces[token] for token in reading.tokens[start:stop]]
        text = b"".join(written).decode(errors="surrogateescape")
        byte_of = np.concatenate([[0], np.cumsum(_byte_lengths(text))])
        token_of = np.repeat(np.arange(start, stop), [len(piece) for piece in written])
        for match in pattern.finditer(text):
            begin, end = match.span(group)
            if end > begin:
                first, last = token_of[byte_of[begin]], token_of[byte_of[end] - 1]
                marked[first : last + 1] = True
    return marked


def first_half(reading: Reading) -> np.ndarray:
    """Which tokens (N,) bool belong to the first half of the windows, the larger one if odd.

    Raises:
        UserError: If there is no second half.
    """
    window = np.cumsum(reading.window_start) - 1
    windows = int(window[-1]) + 1 if len(window) else 0
    if windows < 2:
        raise UserError("sequences: one half chooses codes, the other reports them; read 2 or more")
    return window < (windows + 1) // 2


def at_positions(flags: np.ndarray, site: SiteReading) -> np.ndarray:
    """Flags (P,) bool of a site's positions: whether any token that one covers has it (N,)."""
    return any_in_span(flags, site.first, site.last).astype(bool)


def book_counts(
    site: SiteReading, level: int, labels: np.ndarray, num_labels: int, where: np.ndarray
) -> Counts:
    """Counts of one book at the positions `where` (P,) bool, by labels (P,) int or bool."""
    indices = site.indices if site.shared else site.indices[:, level : level + 1]
    return count(
        torch.from_numpy(indices[where]),
        torch.from_numpy(labels[where].astype(np.int64)),
        site.codebook_size,
        num_labels,
    )


def search_codes(
    reading: Reading,
    marked: np.ndarray,
    *,
    most: int = 5,
    control: Callable[[str, np.ndarray], NeuronControl | None] | None = None,
) -> list[CodeMatch]:
    """Codes that fire where tokens are marked.

    Args:
        reading: What was read; the sites to search.
        marked: (N,) bool.
        most: Codes kept of each book.
        control: `control(site, first)`: the neurons of a site, whose positions `first` (P,) bool
            choose thresholds; None to leave neurons out.

    Returns:
        By falling precision on the first half, where each had a recall above `MIN_RECALL` and a
        precision above `MIN_PRECISION`; then by recall, then in the order of books and codes.
    """
    half = first_half(reading)
    found: list[CodeMatch] = []
    for name, site in reading.sites.items():
        wanted, first = at_positions(marked, site), half[site.last]
        matches = [
            match
            for level in range(site.num_levels)
            for match in _search_book(name, site, level, wanted, first)[:most]
        ]
        neurons = control(name, first) if control is not None and matches else None
        if neurons is not None:
            matches = [
                replace(match, neuron=neurons.best(wanted, match.chosen.hits)) for match in matches
            ]
        found += matches
    return sorted(found, key=lambda match: (-match.chosen.precision, -match.chosen.recall))


def _search_book(
    name: str, site: SiteReading, level: int, wanted: np.ndarray, first: np.ndarray
) -> list[CodeMatch]:
    """All codes of a book that pass on the first half, the best one first."""
    chosen = book_counts(site, level, wanted, 2, first)
    reported = book_counts(site, level, wanted, 2, ~first)
    precision, recall = chosen.precision[:, 1], chosen.recall[:, 1]
    codes = ((precision > MIN_PRECISION) & (recall > MIN_RECALL)).nonzero()[:, 0].tolist()
    codes.sort(key=lambda code: (-float(precision[code]), -float(recall[code])))
    return [
        CodeMatch(name, level, code, chosen.score(code, 1), reported.score(code, 1))
        for code in codes
    ]


def _byte_lengths(text: str) -> np.ndarray:
    """UTF-8 bytes of each character; 1 for a surrogate that stands for a stray byte."""
    points = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
    lengths = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
    return np.where((points >= 0xDC80) & (points <= 0xDCFF), 1, lengths)
