"""Steering by topic: codes found by themselves, clamped while text is written, beside a control.

Experiment E5 (spec sections 8.5 and 10), after Codebook Features (Tamkin et al. 2023,
arXiv:2310.17230, section 5). The parts are in `steering`; the text without codes is shared by all
topics.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from crystalline.contract import LanguageModel
from crystalline.errors import UserError
from crystalline.interpret import steering
from crystalline.interpret.reading import Reading
from crystalline.interpret.sites import Code, find_sites, fitting
from crystalline.interpret.topic_effects import moving_codes, own_tokens
from crystalline.interpret.topics import topic_codes, topic_sequences
from crystalline.tokenizer import Tokenizer

ARMS = ("base", "steered", "control")


@dataclass(frozen=True)
class Topic:
    """What a text may speak of, and the codes that are to make it do so."""

    name: str
    words: Sequence[str]
    codes: Sequence[Code]


class Judge(NamedTuple):
    """Whose perplexity says what steering costs."""

    model: LanguageModel
    tokenizer: Tokenizer


class Steered(NamedTuple):
    """What was found."""

    rows: list[dict[str, Any]]
    """Base, steered and control of each topic."""
    control: dict[str, list[Code]]
    """Codes of the control, by topic."""


def choose_by_firing(
    reading: Reading,
    tokenizer: Tokenizer,
    topics: Mapping[str, Sequence[str]],
    *,
    num_codes: int,
    codes_per_book: int,
    min_share: float,
) -> tuple[list[Topic], dict[str, UserError]]:
    """The codes that tell each topic best, from what was read: `topic_codes`, nothing by hand.

    Returns:
        Topics with codes; and why the others, by name, have none: what was read does not hold the
        topic, or no code tells it.
    """
    on: dict[str, np.ndarray] = {}
    failed: dict[str, UserError] = {}
    for name, words in topics.items():
        try:
            on[name] = topic_sequences(reading, tokenizer, words)
        except UserError as error:
            failed[name] = error
    each = topic_codes(reading, list(on.values()), min_share=min_share, most=codes_per_book)
    room = {name: site.room for name, site in reading.sites.items()}
    chosen: list[Topic] = []
    for name, found in zip(on, each, strict=True):
        words = topics[name]
        if found:
            codes = [Code(code.site, code.level, code.code) for code in found]
            codes = [code for code, fit in zip(codes, fitting(codes, room), strict=True) if fit]
            chosen.append(Topic(name, words, codes[:num_codes]))
        else:
            failed[name] = UserError(
                f"topic=[{','.join(words)}]: no code fires on more than {min_share:g} of the tokens"
                " of a sequence about it and tells it from others; lower the share, or read more"
                " sequences"
            )
    return chosen, failed


def choose_by_effect(
    model: LanguageModel,
    reading: Reading,
    tokenizer: Tokenizer,
    topics: Mapping[str, Sequence[str]],
    *,
    windows: int,
    **options: Any,
) -> tuple[list[Topic], dict[str, UserError]]:
    """The codes that, held, make the model expect each topic most: `moving_codes`.

    Args:
        model: Its mode is the same afterwards.
        reading: What it chose.
        tokenizer: Its own.
        topics: Their words.
        windows: Of those that were read, for measurements: the first that are as long as the first.
        options: Of `moving_codes`.

    Returns:
        Topics with codes; and why the others, by name, have none.
    """
    texts = torch.from_numpy(_alike(reading)[:windows])
    counts, chosen, failed = code_counts(reading), list[Topic](), dict[str, UserError]()
    for name, words in topics.items():
        try:
            wanted = own_tokens(reading, tokenizer, words)
        except UserError as error:
            failed[name] = error
            continue
        found = moving_codes(model, texts, wanted, counts, **options)
        if found:
            chosen.append(Topic(name, words, [each.code for each in found]))
        else:
            failed[name] = UserError(
                f"topic=[{','.join(words)}]: no code makes the model expect it at a cost of "
                f"{options['max_cost']:g} nats a token; allow more, or more candidates"
            )
    return chosen, failed


def _alike(reading: Reading) -> Int[np.ndarray, "windows pos"]:
    """Windows as long as the first one."""
    each = np.split(reading.tokens, np.flatnonzero(reading.window_start)[1:])
    return np.stack([window for window in each if len(window) == len(each[0])])


def code_counts(reading: Reading) -> dict[str, Int[Tensor, "levels codebook_size"]]:
    """How often each code was chosen, by site."""
    counts = {}
    for name, site in reading.sites.items():
        levels = [torch.from_numpy(site.level(n)[0]).long() for n in range(site.num_levels)]
        each = [torch.bincount(level, minlength=site.codebook_size) for level in levels]
        counts[name] = torch.stack(each)
    return counts


def steer_topics(
    model: LanguageModel,
    tokenizer: Tokenizer,
    topics: Sequence[Topic],
    prompts: Sequence[Sequence[int]],
    counts: Mapping[str, Tensor],
    *,
    judge: Judge | None,
    seed: int,
    **options: Any,
) -> Steered:
    """Texts without codes, under each topic's, and under others that are used as often.

    Args:
        model: Its mode is the same afterwards.
        tokenizer: Its own.
        topics: With their codes.
        prompts: Token ids, at least one each.
        counts: See `code_counts`; of every site of the codes.
        judge: None leaves perplexities out.
        seed: Of the texts and of the control's codes.
        options: Of `steering.continuations`.

    Returns:
        Rows of topic, codes (base, steered, control), mentioned, texts, frequency, its Wilson
        interval low and high, log_odds_ratio to the base, distinct_2 and, with a judge, perplexity
        and price, the perplexity over that of the base.
    """
    sites, random = find_sites(model), np.random.default_rng(seed)

    def judged(lines: Sequence[Sequence[int]]) -> tuple[list[str], dict[str, float]]:
        texts = [tokenizer.decode(line) for line in lines]
        quality = {"distinct_2": steering.distinct_2(texts)}
        if judge is not None:
            ids = [judge.tokenizer.encode(text) for text in texts]
            start = judge.tokenizer.eot_id
            quality["perplexity"] = steering.perplexity(judge.model, ids, start)
        return texts, quality

    control = {topic.name: steering.control_codes(counts, topic.codes, random) for topic in topics}
    held = [codes for topic in topics for codes in (topic.codes, control[topic.name])]
    arms = [(), *held]
    written = steering.continuations(model, prompts, sites, arms, seed=seed, **options)
    base, *others = map(judged, written)
    rows: list[dict[str, Any]] = []
    for topic, steered, other in zip(topics, others[::2], others[1::2], strict=True):
        found = (base, steered, other)
        first = steering.count_mentions(base[0], topic.words)
        for arm, (texts, quality) in zip(ARMS, found, strict=True):
            said = steering.count_mentions(texts, topic.words)
            low, high = said.interval
            row = {"topic": topic.name, "codes": arm, "mentioned": said.mentioned}
            row |= {"texts": said.texts, "frequency": said.frequency, "low": low, "high": high}
            row |= {"log_odds_ratio": said.log_odds_ratio(first), **quality}
            if judge is not None:
                row["price"] = quality["perplexity"] / base[1]["perplexity"]
            rows.append(row)
    return Steered(rows, control)


def steering_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The numbers that decide: the frequencies of each topic ("<topic> <arm>"), and over topics.

    `topics` (how many), `median_steered`, `highest_base`, `control_gap` (largest distance of a
    control from its base), medians of the steered `price` and of `distinct_2` over the base's.
    """
    by_topic = {(row["topic"], row["codes"]): row for row in rows}
    names = list(dict.fromkeys(row["topic"] for row in rows))
    figures = {f"{n} {arm}": float(by_topic[n, arm]["frequency"]) for n in names for arm in ARMS}
    figures["topics"] = float(len(names))
    if not names:
        return figures

    def every(arm: str, key: str) -> list[float]:
        return [by_topic[name, arm][key] for name in names]

    base, control = every("base", "frequency"), every("control", "frequency")
    figures["median_steered"] = statistics.median(every("steered", "frequency"))
    figures["highest_base"] = max(base)
    figures["control_gap"] = max(abs(a - b) for a, b in zip(control, base, strict=True))
    if "price" in rows[0]:
        figures["price"] = statistics.median(every("steered", "price"))
    first = rows[0]["distinct_2"]
    figures["distinct_2"] = statistics.median(every("steered", "distinct_2")) / (first or 1.0)
    return figures
