"""The bucket table: which strings each code of each discrete site stands for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, astuple, dataclass, fields
from typing import Literal

import numpy as np

from crystalline.errors import UserError
from crystalline.interpret.information import (
    Contingency,
    adjusted_mutual_information,
    contingency,
    entropy,
    string_bits,
)
from crystalline.interpret.labels import (
    TokenTraits,
    site_labels,
    token_classes,
    token_traits,
)
from crystalline.interpret.reading import Reading, SiteReading
from crystalline.tokenizer import EOT, Tokenizer

Sort = Literal["count", "distinct", "purity"]


@dataclass(frozen=True)
class Bucket:
    """One code of one level of one site; only codes that were chosen have a row."""

    site: str
    level: int
    """Level of a residual quantizer; 0 where all codes of a position come from one book."""
    code: int
    n_positions: int
    n_distinct: int
    """Different strings among its positions."""
    purity: float
    """Share of its positions that hold its commonest string."""
    string_bits: float
    """Entropy of its strings."""
    strings: tuple[tuple[str, int], ...]
    """The commonest strings with their counts. Where a position covers several tokens, the string
    is the text of all of them."""


@dataclass(frozen=True)
class Level:
    """Summary of all buckets of one level of one site."""

    site: str
    level: int
    codebook_size: int
    tokens_per_position: float
    """Mean length of the text that a position covers."""
    n_positions: int
    """Sum of its buckets' counts: positions, or positions x k for a shared book."""
    used: int
    """Codes chosen at least once."""
    perplexity: float
    """exp of the entropy of the choices."""
    purity: float
    """Mean of the buckets' purities, weighted by positions."""
    mutual_bits: float
    """What codes and strings tell of each other, a position; these three are plug-in estimates."""
    string_bits_given_code: float
    code_bits_given_string: float
    class_ami: float
    """Adjusted mutual information with the class of a position's last token; 0 is chance."""
    token_ami: float
    """The same with that token's identity: near 1, the code is little more than the token."""


@dataclass(frozen=True)
class BucketTable:
    """All buckets of a model over one text."""

    step: int
    """Completed rounds when the model was read."""
    n_tokens: int
    levels: tuple[Level, ...]
    buckets: tuple[Bucket, ...]

    def of(self, site: str, level: int) -> list[Bucket]:
        """The rows of one level of one site."""
        return [b for b in self.buckets if (b.site, b.level) == (site, level)]

    def to_json(self) -> str:
        """Compact JSON; rows of buckets as lists below their column names."""
        columns = [field.name for field in fields(Bucket)]
        content = {
            "step": self.step,
            "n_tokens": self.n_tokens,
            "levels": [asdict(level) for level in self.levels],
            "columns": columns,
            "buckets": [astuple(bucket) for bucket in self.buckets],
        }
        return json.dumps(content, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> BucketTable:
        """Read what `to_json` wrote.

        Raises:
            UserError: If `text` is not a bucket table.
        """
        try:
            content = json.loads(text)
            rows = [dict(zip(content["columns"], row, strict=True)) for row in content["buckets"]]
            for row in rows:
                row["strings"] = tuple((string, count) for string, count in row["strings"])
            return cls(
                content["step"],
                content["n_tokens"],
                tuple(Level(**level) for level in content["levels"]),
                tuple(Bucket(**row) for row in rows),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                "not a bucket table; give a buckets/step_*.json that a run has written"
            ) from error


def bucket_table(
    reading: Reading,
    tokenizer: Tokenizer,
    *,
    step: int = 0,
    top_strings: int = 8,
    traits: TokenTraits | None = None,
) -> BucketTable:
    """Count the strings of every code.

    Args:
        reading: What `reading.read` gave.
        tokenizer: Decodes tokens.
        step: Written into the table.
        top_strings: Strings kept for each bucket, the commonest first.
        traits: `token_traits(tokenizer)`, if already made.

    Returns:
        Buckets ordered by site, level and code. Counts of a level sum to its positions (times k
        for a shared book).
    """
    traits = traits or token_traits(tokenizer)
    classes = token_classes(reading, traits)
    levels: list[Level] = []
    buckets: list[Bucket] = []
    for name, site in reading.sites.items():
        strings, ids = span_strings(reading.tokens, site, tokenizer)
        labels = site_labels(reading, site, traits, classes)
        for level in range(site.num_levels):
            codes, position = site.level(level)
            table = contingency(codes, ids[position])
            values = np.unique(codes), [strings[i] for i in np.unique(ids[position])]
            rows = list(_count(name, level, table, *values, top_strings))
            amis = (
                adjusted_mutual_information(contingency(codes, labels["token_class"][position])),
                adjusted_mutual_information(contingency(codes, labels["token"][position])),
            )
            levels.append(_summary(name, level, site, rows, string_bits(table), amis))
            buckets.extend(rows)
    return BucketTable(step, len(reading.tokens), tuple(levels), tuple(buckets))


def _count(
    site: str, level: int, table: Contingency, codes: np.ndarray, strings: list[str], top: int
) -> Iterator[Bucket]:
    bounds = np.searchsorted(table.rows, np.arange(len(codes) + 1))
    for row, code in enumerate(codes):
        cells = slice(bounds[row], bounds[row + 1])
        counts, columns = table.cells[cells], table.columns[cells]
        order = np.argsort(-counts, kind="stable")[:top]
        total = int(counts.sum())
        yield Bucket(
            site,
            level,
            int(code),
            total,
            len(counts),
            float(counts.max() / total),
            entropy(counts) / float(np.log(2)),
            tuple((strings[columns[i]], int(counts[i])) for i in order),
        )


def _summary(
    site: str,
    level: int,
    codes: SiteReading,
    rows: list[Bucket],
    bits: dict[str, float],
    amis: tuple[float, float],
) -> Level:
    counts = np.array([row.n_positions for row in rows], dtype=np.int64)
    pure = sum(row.purity * row.n_positions for row in rows)
    return Level(
        site,
        level,
        codes.codebook_size,
        float((codes.last - codes.first + 1).mean()) if len(codes.last) else 0.0,
        int(counts.sum()),
        len(rows),
        float(np.exp(entropy(counts))),
        float(pure / max(counts.sum(), 1)),
        bits["mutual_bits"],
        bits["string_bits_given_code"],
        bits["code_bits_given_string"],
        *amis,
    )


def span_strings(
    tokens: np.ndarray, site: SiteReading, tokenizer: Tokenizer
) -> tuple[list[str], np.ndarray]:
    """The different texts that a site's positions cover, and which of them (P,) each one covers."""
    known: dict[str, int] = {}
    by_span: dict[tuple[int, ...], int] = {}
    ids = np.empty(len(site.first), dtype=np.int64)
    for position, (first, last) in enumerate(zip(site.first, site.last, strict=True)):
        span = tuple(tokens[first : last + 1].tolist())
        if span not in by_span:
            by_span[span] = known.setdefault(span_text(span, tokenizer), len(known))
        ids[position] = by_span[span]
    return list(known), ids


def span_text(span: Iterable[int], tokenizer: Tokenizer) -> str:
    r"""Text of a span; parts of a character as "\xe2", special tokens as EOT or "<id>"."""
    text, pending = "", b""
    for token in span:
        piece = tokenizer.token_bytes(token)
        if piece:
            pending += piece
            continue
        special = EOT if token == tokenizer.eot_id else f"<{token}>"
        text += pending.decode("utf-8", errors="backslashreplace") + special
        pending = b""
    return text + pending.decode("utf-8", errors="backslashreplace")
