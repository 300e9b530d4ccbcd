"""Bucket tables as text to read: one table, or an early and a late one beside each other."""

from __future__ import annotations

import json
from collections.abc import Sequence

from crystalline.interpret.buckets import Bucket, BucketTable, Level, Sort

_KEYS = {
    "count": lambda bucket: (-bucket.n_positions, bucket.code),
    "distinct": lambda bucket: (-bucket.n_distinct, -bucket.n_positions, bucket.code),
    "purity": lambda bucket: (-bucket.purity, -bucket.n_positions, bucket.code),
}
_EARLY_WIDTH = 58
_STRING_WIDTH = 41


def render(
    table: BucketTable,
    *,
    top_buckets: int = 5,
    top_strings: int = 8,
    sort: Sort = "count",
    only: Sequence[tuple[str, int]] | None = None,
) -> str:
    """The bucket analysis: for each site and level the first buckets with their strings.

    Args:
        table: What was counted.
        top_buckets: Buckets shown a level.
        top_strings: Strings shown a bucket, if the table kept as many.
        sort: Order of buckets, highest first. "purity" leaves out buckets seen fewer than 10 times.
        only: (site, level) pairs to show; all if None.
    """
    lines = [
        f"BUCKET ANALYSIS at step {table.step}: {table.n_tokens:,} tokens, buckets by {sort}.",
        "Purity: share of the positions that hold the commonest string. "
        "H: entropy in bits, of a code's strings or of a string's codes. "
        "AMI: with class and identity of the last token, 0 = chance.",
    ]
    for level in table.levels:
        if only is not None and (level.site, level.level) not in only:
            continue
        lines += ["", heading(level)]
        for bucket in top(table, level, top_buckets, sort):
            lines.append(
                f"  {bucket.code:>5}  {bucket.n_positions:>7,} positions"
                f"  {bucket.n_distinct:>6,} distinct  purity {bucket.purity:.2f}"
                f"  H {bucket.string_bits:.2f}   " + shown_strings(bucket, top_strings)
            )
    return "\n".join(lines) + "\n"


def side_by_side(
    early: BucketTable,
    late: BucketTable,
    *,
    top_buckets: int = 5,
    top_strings: int = 4,
    sort: Sort = "count",
) -> str:
    """For each level: summary figures early and late, and what the late top buckets held early.

    Levels that only one of the tables has are left out: they are not the same model's.
    """
    before = {(level.site, level.level): level for level in early.levels}
    held = {(b.site, b.level, b.code): b for b in early.buckets}
    lines = [
        f"BUCKETS at step {early.step} (left) and step {late.step} (right), late ones by {sort}."
    ]
    for level in late.levels:
        first = before.get((level.site, level.level))
        if first is None:
            continue
        lines += [
            "",
            f"{level.site} level {level.level}",
            f"  codes used {first.used} -> {level.used} of {level.codebook_size}, "
            f"perplexity {first.perplexity:.1f} -> {level.perplexity:.1f}, "
            f"mean purity {first.purity:.3f} -> {level.purity:.3f}, "
            f"AMI class {first.class_ami:.3f} -> {level.class_ami:.3f}, "
            f"token {first.token_ami:.3f} -> {level.token_ami:.3f}",
        ]
        for bucket in top(late, level, top_buckets, sort):
            past = held.get((bucket.site, bucket.level, bucket.code))
            left = "not used" if past is None else _side(past, top_strings)
            lines.append(f"  {bucket.code:>5}  {_fit(left)} | {_side(bucket, top_strings)}")
    return "\n".join(lines) + "\n"


def top(table: BucketTable, level: Level, number: int, sort: Sort) -> list[Bucket]:
    """The first buckets of a level in the given order."""
    rows = table.of(level.site, level.level)
    if sort == "purity":
        rows = [row for row in rows if row.n_positions >= 10]
    return sorted(rows, key=_KEYS[sort])[:number]


def heading(level: Level) -> str:
    spans = (
        "1 token" if level.tokens_per_position == 1 else f"{level.tokens_per_position:.3g} tokens"
    )
    return (
        f"{level.site} level {level.level} ({spans} a position): "
        f"{level.used} of {level.codebook_size} codes used, perplexity {level.perplexity:.1f}, "
        f"mean purity {level.purity:.3f}, {level.mutual_bits:.2f} bits shared with the string, "
        f"H(string|code) {level.string_bits_given_code:.2f}, "
        f"H(code|string) {level.code_bits_given_string:.2f}, "
        f"AMI class {level.class_ami:.3f}, token {level.token_ami:.3f}"
    )


def shown_strings(bucket: Bucket, number: int) -> str:
    return "  ".join(
        f"{json.dumps(shortened(string), ensure_ascii=False)} {count:,}"
        for string, count in bucket.strings[:number]
    )


def shortened(string: str) -> str:
    """The string, or its beginning and end: segments of segments are long."""
    if len(string) <= _STRING_WIDTH:
        return string
    half = (_STRING_WIDTH - 1) // 2
    return f"{string[:half]}…{string[-half:]}"


def _side(bucket: Bucket, number: int) -> str:
    return f"{bucket.n_positions:,}x {bucket.purity:.2f}  {shown_strings(bucket, number)}"


def _fit(text: str) -> str:
    cut = text if len(text) <= _EARLY_WIDTH else text[: _EARLY_WIDTH - 1] + "…"
    return cut.ljust(_EARLY_WIDTH)
