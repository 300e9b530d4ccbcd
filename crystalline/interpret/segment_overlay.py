"""A text with its segments shown in it: a page for a browser, and the same in plain characters."""

from __future__ import annotations

import html
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from crystalline.interpret.bucket_text import shortened
from crystalline.interpret.buckets import BucketTable, span_text
from crystalline.interpret.reading import Reading
from crystalline.tokenizer import Tokenizer

_GOLDEN_ANGLE = 137.508
"""Degrees between the hues of two neighbouring codes: as far apart as many can be."""
_VISIBLE = {code: chr(0x2400 + code) for code in range(32)}
"""A picture for each control character."""
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_STYLE = """
body { max-width: 60em; margin: 2em auto; padding: 0 1em; background: #fff; color: #111;
       font: 16px/1.7 system-ui, sans-serif; }
h2 { font-size: 1em; margin: 2em 0 0; border-top: 1px solid #ccc; padding-top: 1em; }
h3 { font-size: 0.85em; font-weight: normal; color: #555; margin: 1em 0 0.3em; }
p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere;
    font-family: ui-monospace, monospace; }
span { background: hsl(var(--h) 70% 88%); border-left: 2px solid hsl(var(--h) 50% 45%); }
"""


class Piece(NamedTuple):
    """A stretch of a window."""

    text: str
    codes: tuple[tuple[int, int], ...]
    """Level and code of the segment; empty where no segment has ended yet."""


def pieces(reading: Reading, site: str, begin: int, end: int, tokenizer: Tokenizer) -> list[Piece]:
    """Tokens `begin` to `end` (excluded) as the segments of a site, and what lies between them."""
    part, found, at = reading.sites[site], [], begin
    for position in np.flatnonzero((part.first >= begin) & (part.last < end)).tolist():
        first, last = int(part.first[position]), int(part.last[position])
        if last < at:  # a segment of a higher level may hold nothing new
            continue
        if first > at:
            found.append(Piece(span_text(reading.tokens[at:first].tolist(), tokenizer), ()))
        codes = dict.fromkeys(
            (0 if part.shared else level, code)
            for level, code in enumerate(part.indices[position].tolist())
        )
        text = span_text(reading.tokens[max(first, at) : last + 1].tolist(), tokenizer)
        found.append(Piece(text, tuple(codes)))
        at = last + 1
    if at < end:
        found.append(Piece(span_text(reading.tokens[at:end].tolist(), tokenizer), ()))
    return found


def overlay_html(
    reading: Reading, table: BucketTable, tokenizer: Tokenizer, *, windows: int
) -> str:
    """The first windows, each as the segments of every site that has some; one file, no scripts.

    A colour stands for a code; under the pointer are its number and its commonest string.

    Args:
        reading: The text and its codes.
        table: Buckets of the same reading.
        tokenizer: Decodes tokens.
        windows: How many, at most.
    """
    said = {
        (row.site, row.level, row.code): f"code {row.code}: mostly "
        f"{shortened(row.strings[0][0])!r}, {row.strings[0][1]:,} of {row.n_positions:,}"
        for row in table.buckets
    }
    body = []
    for number, sites in enumerate(_windows(reading, tokenizer, windows), start=1):
        body.append(f"<h2>Window {number}</h2>")
        for site, found in sites.items():
            spans = "".join(_span(site, piece, said) for piece in found)
            body.append(f"<h3>{html.escape(site)}</h3>\n<p>{spans}</p>")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>Segments</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>Segments</h1>\n"
        "<div>A colour stands for a code; the pointer shows its number and its commonest string. "
        "What has no colour is in no segment that has ended.</div>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def overlay_text(reading: Reading, tokenizer: Tokenizer, *, windows: int) -> str:
    """The same in plain characters: each segment, its codes in small digits, and a bar."""
    lines = ["Each segment is followed by its code in small digits and by │; ␊ is a line break."]
    for number, sites in enumerate(_windows(reading, tokenizer, windows), start=1):
        lines += ["", f"WINDOW {number}"]
        for site, found in sites.items():
            lines += [site, "  " + "".join(_marked(piece) for piece in found)]
    return "\n".join(lines) + "\n"


def _windows(
    reading: Reading, tokenizer: Tokenizer, count: int
) -> Iterator[dict[str, list[Piece]]]:
    """The pieces of every site that has segments, for each of the first windows."""
    sites = [name for name, site in reading.sites.items() if site.segments]
    bounds = [*np.flatnonzero(reading.window_start).tolist(), len(reading.tokens)]
    for begin, end in list(pairwise(bounds))[:count]:
        yield {name: pieces(reading, name, begin, end, tokenizer) for name in sites}


def _span(site: str, piece: Piece, said: dict[tuple[str, int, int], str]) -> str:
    text = html.escape(piece.text.translate(_VISIBLE)).replace("␊", "␊\n")
    if not piece.codes:
        return text
    title = html.escape("\n".join(said[site, level, code] for level, code in piece.codes))
    hue = piece.codes[0][1] * _GOLDEN_ANGLE % 360
    return f'<span style="--h:{hue:.0f}" title="{title}">{text}</span>'


def _marked(piece: Piece) -> str:
    text = piece.text.translate(_VISIBLE)
    if not piece.codes:
        return text
    return text + ".".join(str(code) for _, code in piece.codes).translate(_SUBSCRIPTS) + "│"
