"""A page of every code that stands for segments: its strings, how mixed they are, and places."""

from __future__ import annotations

import json

from crystalline.interpret.bucket_text import heading, shown_strings
from crystalline.interpret.buckets import Bucket, BucketTable
from crystalline.interpret.code_views import Context, contexts, firing_positions
from crystalline.interpret.reading import Reading
from crystalline.tokenizer import Tokenizer


def code_pages(
    reading: Reading, table: BucketTable, tokenizer: Tokenizer, *, places: int = 3, around: int = 24
) -> str:
    """Codes of every site that has segments, the commonest first; empty if there is none.

    Args:
        reading: What the table was counted from.
        table: Its buckets.
        tokenizer: Decodes tokens.
        places: Shown of each code, spread evenly over the text.
        around: Tokens shown on either side.
    """
    parts = []
    for level in table.levels:
        site = reading.sites[level.site]
        if not site.segments:
            continue
        parts.append(f"{heading(level)}\n")
        rows = sorted(
            table.of(level.site, level.level), key=lambda row: (-row.n_positions, row.code)
        )
        for row in rows:
            where = firing_positions(site, row.level, row.code)
            shown = contexts(reading, site, where, tokenizer, number=places, around=around)
            parts.append(_page(row, shown))
    return "\n".join(parts)


def _page(row: Bucket, shown: list[Context]) -> str:
    title = (
        f"code {row.code}: {row.n_positions:,} segments, {row.n_distinct:,} strings, "
        f"purity {row.purity:.2f}, {row.string_bits:.2f} bits"
    )
    lines = [title, f"    {shown_strings(row, len(row.strings))}"]
    lines += [f"    {_escaped(at.before)}[{_escaped(at.text)}]{_escaped(at.after)}" for at in shown]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1].replace('\\"', '"')
