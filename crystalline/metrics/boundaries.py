"""Where segments of a text end, and whether those places are the ends of something known.

A *place* lies between two bytes of a stretch: the text of one window, or of the part of it that
belongs to one document. Ends of stretches are no places; nobody has to find them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Int

from crystalline.interpret.reading import Reading, SiteReading
from crystalline.tokenizer import Tokenizer

_CLOSING = r"[\"'”’)\]]*"
PATTERNS = {
    "word_start": r"(?<!\w)(?<!\w['’])(?=\w)",
    "word_end": r"(?<=\w)(?!\w)(?!['’]\w)",
    "clause_end": rf"[,;:]+{_CLOSING}(?P<end>\s+)",
    "sentence_end": rf"[.!?]+{_CLOSING}(?P<end>\s+)",
    "line_end": r"(?P<end>\s*\n\s*)",
}
"""What ends where: at any place of the group "end", white space, or where the match is empty."""

_SPACE = np.isin(np.arange(256), list(b" \t\n\r\v\f"))


@dataclass(frozen=True)
class Boundaries:
    """A text and the places where segments end in it; all offsets are bytes from its start."""

    text: bytes
    """All stretches, one after the other."""
    edges: Int[np.ndarray, " edges"]
    """Ends of stretches, 0 and the text's length among them; sorted."""
    cuts: Int[np.ndarray, " cuts"]
    """Places where a segment ends and another begins; sorted."""

    def stretches(self) -> list[tuple[int, int]]:
        return list(pairwise(self.edges.tolist()))

    def permuted(self, generator: np.random.Generator) -> Boundaries:
        """The segments of each stretch in a random order: chance with the same lengths."""
        points = np.union1d(self.edges, self.cuts)
        lengths = np.diff(points)
        stretch = np.searchsorted(self.edges, points[:-1], side="right")
        order = np.lexsort((generator.random(len(lengths)), stretch))
        ends = np.cumsum(lengths[order])
        return replace(self, cuts=np.setdiff1d(ends, self.edges))


@dataclass(frozen=True)
class Intervals:
    """Ends of something: an end is found if a cut lies between `first` and `last`, both included.

    They do not overlap.
    """

    first: Int[np.ndarray, " ends"]
    last: Int[np.ndarray, " ends"]


def boundaries(reading: Reading, site: SiteReading, tokenizer: Tokenizer) -> Boundaries:
    """Of one site. Special tokens have no bytes and end a stretch, as windows do."""
    sizes = token_sizes(tokenizer)[reading.tokens]
    after = np.cumsum(sizes)
    starts = (after - sizes)[reading.window_start | (sizes == 0)]
    text = b"".join(tokenizer.token_bytes(token) for token in reading.tokens.tolist())
    edges = np.union1d(starts, [0, len(text)]).astype(np.int64)
    return Boundaries(text, edges, np.setdiff1d(after[site.last], edges))


def token_sizes(tokenizer: Tokenizer) -> Int[np.ndarray, " vocab"]:
    """Bytes of every token; special ones have none."""
    return np.array([len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)])


def references(found: Boundaries, bpe: Tokenizer | None) -> dict[str, Intervals]:
    """What segments may end with, by name; what the text has none of is left out.

    "bpe": a token of `bpe`, which reads every stretch by itself; then `PATTERNS`. White space
    between two tokens may go to either. An apostrophe inside a word belongs to it. After a mark and
    what closes behind it, any place up to the next visible character will do; a line may end on
    either side of its break.

    Args:
        found: Whose text, which must be UTF-8 but for the ends of stretches if there is a `bpe`.
        bpe: A tokenizer; None leaves it out.
    """
    spans: dict[str, list[tuple[int, int]]] = {name: [] for name in ("bpe", *PATTERNS)}
    for start, stop in found.stretches():
        stretch = found.text[start:stop]
        for name, (begin, end) in _ends(stretch, bpe):
            first, last = max(begin, 1), min(end, len(stretch) - 1)
            if first <= last:
                spans[name].append((start + first, start + last))
    arrays = {name: np.array(each, dtype=np.int64) for name, each in spans.items() if each}
    return {name: Intervals(each[:, 0], each[:, 1]) for name, each in arrays.items()}


def agreement(cuts: Int[np.ndarray, " cuts"], wanted: Intervals) -> dict[str, float]:
    """Precision, recall and F1 of sorted cuts; several cuts at one end count as one that is right.

    precision = found ends / cuts, recall = found ends / ends, f1 = 2 found / (cuts + ends).
    """
    inside = np.searchsorted(cuts, wanted.last, "right") - np.searchsorted(cuts, wanted.first)
    found, ends = int((inside > 0).sum()), len(wanted.first)
    return {
        "f1": 2 * found / (len(cuts) + ends),
        "precision": found / max(len(cuts), 1),
        "recall": found / ends,
    }


def shares(found: Boundaries) -> dict[str, float]:
    """Share of cuts behind white space, before it, and inside a character; 0 without cuts."""
    text, cuts = np.frombuffer(found.text, dtype=np.uint8), found.cuts
    before, behind = text[cuts - 1], text[cuts]
    count = max(len(cuts), 1)
    return {
        "after_space": float(_SPACE[before].sum() / count),
        "before_space": float(_SPACE[behind].sum() / count),
        "inside_character": float((behind & 0xC0 == 0x80).sum() / count),
    }


def _ends(stretch: bytes, bpe: Tokenizer | None) -> list[tuple[str, tuple[int, int]]]:
    """Name, first and last place of every end, in bytes of the stretch."""
    text = stretch.decode(errors="surrogateescape")
    widths = [len(char.encode(errors="surrogateescape")) for char in text]
    place = np.concatenate([[0], np.cumsum(widths)]).astype(int).tolist()
    found = []
    for name, pattern in PATTERNS.items():
        for match in re.finditer(pattern, text):
            first, last = match.span("end") if "end" in match.groupdict() else match.span()
            found.append((name, (place[first], place[last])))
    if bpe is not None:
        found += [("bpe", span) for span in _token_ends(stretch, bpe)]
    return found


def _token_ends(stretch: bytes, bpe: Tokenizer) -> list[tuple[int, int]]:
    """Where tokens end, or anywhere in the white space there; not beside a part of a character."""
    begin = next((i for i, byte in enumerate(stretch) if byte & 0xC0 != 0x80), len(stretch))
    text = stretch[begin:].decode(errors="ignore")
    sizes = [len(bpe.token_bytes(token)) for token in bpe.encode(text)]
    found: list[tuple[int, int]] = []
    for end in (begin + np.cumsum(sizes, dtype=int))[:-1].tolist():
        first = len(stretch[:end].rstrip())
        last = len(stretch) - len(stretch[end:].lstrip())
        if not found or first > found[-1][1]:
            found.append((first, last))
    return found
