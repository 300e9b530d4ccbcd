"""What segments are: how long, where they end, and how much their codes tell of their strings."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from crystalline.interpret.buckets import span_strings
from crystalline.interpret.information import (
    contingency,
    entropy,
    expected_mutual_information,
    join,
    purity,
    string_bits,
)
from crystalline.interpret.reading import Reading, SiteReading
from crystalline.metrics.boundaries import (
    Boundaries,
    agreement,
    boundaries,
    references,
    shares,
    token_sizes,
)
from crystalline.tokenizer import Tokenizer

_BITS = 1 / float(np.log(2))


def segment_figures(
    reading: Reading,
    tokenizer: Tokenizer,
    bpe: Tokenizer | None,
    *,
    draws: int,
    seed: int,
) -> dict[str, dict[str, float]]:
    """By site that has segments, all figures: `lengths`, `ends` and `string_figures`.

    Args:
        reading: The text and its codes.
        tokenizer: Of the text.
        bpe: Whose tokens' ends segments are compared with; None leaves that out.
        draws: Random orders of segments that the figures of chance are means of.
        seed: Of these.
    """
    return {
        name: {
            **lengths(reading, site, tokenizer),
            **ends(boundaries(reading, site, tokenizer), bpe, draws, seed),
            **string_figures(*site_strings(reading, site, tokenizer)),
        }
        for name, site in reading.sites.items()
        if site.segments
    }


def lengths(reading: Reading, site: SiteReading, tokenizer: Tokenizer) -> dict[str, float]:
    """Mean, median, p95 and max of bytes and of tokens a segment, and how many there are.

    Segments of special tokens alone count in `segments` and `per_sequence` only. The first segment
    of a sequence begins where the sequence does.
    """
    sizes = np.concatenate([[0], np.cumsum(token_sizes(tokenizer)[reading.tokens])])
    in_bytes = sizes[site.last + 1] - sizes[site.first]
    in_tokens = (site.last - site.first + 1)[in_bytes > 0]
    in_bytes = in_bytes[in_bytes > 0]
    return {
        "segments": float(len(site.last)),
        "per_sequence": len(site.last) / max(int(reading.window_start.sum()), 1),
        **{f"bytes_{name}": value for name, value in _summary(in_bytes).items()},
        **{f"tokens_{name}": value for name, value in _summary(in_tokens).items()},
        "single_byte": float((in_bytes == 1).mean()) if len(in_bytes) else 0.0,
    }


def ends(found: Boundaries, bpe: Tokenizer | None, draws: int, seed: int) -> dict[str, float]:
    """Shares of `boundaries.shares`, agreement with `boundaries.references`, and chance.

    `<name>_chance` is the mean over random orders of the same segments, for shares and F1.
    """
    generator = np.random.default_rng(seed)
    random = [found.permuted(generator) for _ in range(draws)]
    figures, by_chance = shares(found), [shares(each) for each in random]
    for name in list(figures):
        figures[f"{name}_chance"] = float(np.mean([each[name] for each in by_chance]))
    for name, wanted in references(found, bpe).items():
        figures |= {f"{name}_{key}": v for key, v in agreement(found.cuts, wanted).items()}
        scores = [agreement(each.cuts, wanted)["f1"] for each in random]
        figures[f"{name}_f1_chance"] = float(np.mean(scores))
    return figures


def site_strings(
    reading: Reading, site: SiteReading, tokenizer: Tokenizer
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """A number for the code of each position, and one for its string.

    Levels of a residual quantizer make one code together; codes of a shared book come one by one.
    """
    strings = span_strings(reading.tokens, site, tokenizer)[1]
    if site.shared:
        codes, position = site.level(0)
        return codes, strings[position]
    joint = site.indices[:, 0]
    for level in range(1, site.num_levels):
        joint = join(joint, site.indices[:, level])
    return joint, strings


def string_figures(
    codes: Int[np.ndarray, " n"], strings: Int[np.ndarray, " n"]
) -> dict[str, float]:
    """How codes and strings go together; plug-in estimates, which rise with the number of codes.

    `purity`: share of positions that hold the commonest string of their code, which is the mean of
    the codes' purities by use. `code_bits` H(code), `string_bits` H(string), and those of
    `information.string_bits`, in bits a position. `mutual_bits_chance` is what codes would seem to
    share with strings if they were dealt out at random.
    """
    table = contingency(codes, strings)
    by_chance = expected_mutual_information(table.row_sums, table.column_sums)
    return {
        "purity": purity(table),
        "code_bits": entropy(table.row_sums) * _BITS,
        "string_bits": entropy(table.column_sums) * _BITS,
        **string_bits(table),
        "mutual_bits_chance": by_chance * _BITS,
    }


def _summary(values: Int[np.ndarray, " n"]) -> dict[str, float]:
    """Nothing has all of them 0."""
    values = values if len(values) else np.zeros(1)
    return {
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "p95": float(np.quantile(values, 0.95)),
        "max": float(values.max()),
    }
