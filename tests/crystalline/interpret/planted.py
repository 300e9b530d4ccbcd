"""Readings made by hand: every token id is a byte, and codes fire where a test wants them to."""

from __future__ import annotations

import numpy as np

from crystalline.interpret.reading import Reading, SiteReading


def reading_of(windows: list[str], **sites: SiteReading) -> Reading:
    """Bytes of some windows, with the sites."""
    tokens = np.frombuffer("".join(windows).encode(), dtype=np.uint8).astype(np.int64)
    starts = np.zeros(len(tokens), dtype=bool)
    starts[np.cumsum([0] + [len(window.encode()) for window in windows[:-1]])] = True
    return Reading(tokens, starts, sites)


def site_of(
    indices: list[int] | list[list[int]], size: int = 4, span: int = 1, shared: bool = False
) -> SiteReading:
    """A site with these codes, a position for each `span` tokens."""
    codes = np.array(indices, dtype=np.int32)
    codes = codes[:, None] if codes.ndim == 1 else codes
    last = (np.arange(len(codes)) + 1) * span - 1
    return SiteReading(codes, last - span + 1, last, size, shared)


def segmented(windows: list[list[str]], codes: list[int] | list[list[int]]) -> Reading:
    """Windows of segments of a site "s", with these codes; what begins with "~" is in none."""
    reading = reading_of(["".join(parts).replace("~", "") for parts in windows])
    parts = [part for window in windows for part in window]
    ends = np.cumsum([len(part.replace("~", "").encode()) for part in parts])
    starts = np.concatenate([[0], ends[:-1]])
    real = np.array([not part.startswith("~") for part in parts])
    indices = np.array(codes, dtype=np.int32)
    indices = indices[:, None] if indices.ndim == 1 else indices
    found = SiteReading(indices, starts[real], ends[real] - 1, 16, False, segments=True)
    return Reading(reading.tokens, reading.window_start, {"s": found})
