"""Steering text by codes: how often it speaks of a topic, against base and control, at what price.

The protocol of Codebook Features (Tamkin et al. 2023, arXiv:2310.17230, section 5), with intervals
and a control: random codes that are used as often as the topic's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from crystalline.contract import LanguageModel
from crystalline.errors import UserError
from crystalline.eval_mode import evaluating
from crystalline.interpret.interventions import Edited, clamp_rows
from crystalline.interpret.sites import Code, Site
from crystalline.interpret.topics import topic_pattern
from crystalline.layers.cross_entropy import IGNORED
from crystalline.metrics.token_loss import TokenLoss
from crystalline.sampling import sample

_Z = 1.959964
"""Two-sided 95 % point of the normal distribution."""
_ALIKE = 10
"""A control code is drawn from this many codes of the nearest usage."""


@dataclass(frozen=True)
class Mentions:
    """How many of some texts speak of a topic."""

    mentioned: int
    texts: int

    @property
    def frequency(self) -> float:
        return self.mentioned / self.texts

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval (1927) of the frequency."""
        n, p = self.texts, self.frequency
        centre = p + _Z**2 / (2 * n)
        half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
        scale = 1 + _Z**2 / n
        return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)

    def log_odds_ratio(self, base: Mentions) -> float:
        """Of the odds here to those of `base`, in nats; half a text is added to each count."""
        return self._log_odds() - base._log_odds()

    def _log_odds(self) -> float:
        return math.log((self.mentioned + 0.5) / (self.texts - self.mentioned + 0.5))


def count_mentions(texts: Sequence[str], words: Sequence[str]) -> Mentions:
    """Texts in which one of `words` stands as a whole word, in either case."""
    pattern = topic_pattern(words)
    return Mentions(sum(pattern.search(text) is not None for text in texts), len(texts))


def continuations(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sites: Mapping[str, Site],
    arms: Sequence[Sequence[Code]],
    *,
    num_samples: int,
    seed: int,
    stop_id: int,
    max_new_tokens: int,
    held_tokens: int | None = None,
    batch_size: int = 64,
    **options: Any,
) -> list[list[list[int]]]:
    """For each of `arms`, `num_samples` continuations of each prompt while its codes are held.

    All arms are written together, so that many cost little more than one.

    Args:
        model: Its mode is the same afterwards.
        prompts: Token ids, at least one each.
        sites: What `find_sites` gave.
        arms: Codes that are held in prompt and continuation; none for text as it is.
        num_samples: Of each prompt.
        seed: Every arm draws the same numbers, whatever its codes are.
        stop_id: Ends a text; left out of it.
        max_new_tokens: Tokens of a text, at most.
        held_tokens: Codes are held at the first so many tokens, prompt included; None: at every
            token.
        batch_size: Texts at a time, of all arms, but one of each at least.
        options: Of `crystalline.sampling.sample`.

    Returns:
        Token ids, prompts left out.

    Raises:
        UserError: If `held_tokens` is below 1, or the texts outgrow the model's context: once its
            window slides there are no first tokens.
    """
    check_held(held_tokens, prompts, max_new_tokens, model.context_length)
    generator = torch.Generator().manual_seed(seed)
    options |= {"max_new_tokens": max_new_tokens, "stop_id": stop_id, "copies": len(arms)}
    edited = Edited(model, clamp_rows(sites, arms, held_tokens))
    written: list[list[list[int]]] = [[] for _ in arms]
    most = max(1, batch_size // len(arms))
    for prompt in prompts:
        for start in range(0, num_samples, most):
            count = min(most, num_samples - start)
            rows = torch.tensor([list(prompt)] * (count * len(arms)))
            drawn = list(sample(edited, rows, generator=generator, **options))
            lines = torch.stack(drawn, 1).tolist() if drawn else [[] for _ in rows]
            lines = [line[: line.index(stop_id)] if stop_id in line else line for line in lines]
            for number, texts in enumerate(written):
                texts.extend(lines[number * count : (number + 1) * count])
    return written


def check_held(
    held_tokens: int | None,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    context_length: int,
) -> None:
    """Refuse first tokens of texts that have none; see `continuations`.

    Raises:
        UserError: If they are below 1, or the context's window would slide.
    """
    if held_tokens is None:
        return
    if held_tokens < 1:
        raise UserError(f"held_tokens={held_tokens}: give 1 or more, or null for every token")
    longest = max(map(len, prompts), default=0) + max_new_tokens - 1  # the last one is never read
    if longest > context_length:
        raise UserError(
            f"held_tokens={held_tokens}: texts of {longest + 1} tokens outgrow the context of "
            f"{context_length}; write fewer, or hold codes at every token with null"
        )


def control_codes(
    counts: Mapping[str, Int[Tensor, "levels codebook_size"]],
    codes: Sequence[Code],
    random: np.random.Generator,
) -> list[Code]:
    """For each code another one of its book, drawn from the ten whose usage is nearest to its own.

    Args:
        counts: How often each code was chosen in some text, by site; one row for a shared book.
        codes: Those to be controlled for; none of them is drawn, and none twice.
        random: Draws.

    Raises:
        ValueError: If a book has no other code left.
    """
    taken, found = set(codes), []
    for code in codes:
        usage = counts[code.site][code.level].cpu().numpy()
        distance = np.abs(np.log1p(usage) - np.log1p(usage[code.code]))
        order = np.argsort(distance, kind="stable").tolist()
        others = [other for index in order if (other := code._replace(code=index)) not in taken]
        if not others:
            raise ValueError(f"{code.site} has no code left to control for {code.code}")
        found.append(others[random.integers(min(_ALIKE, len(others)))])
        taken.add(found[-1])
    return found


def perplexity(
    model: LanguageModel, texts: Sequence[Sequence[int]], start: int, batch_size: int = 32
) -> float:
    """Perplexity a token of all texts together; NaN if they are empty.

    Args:
        model: Its mode is the same afterwards.
        texts: Token ids; a text longer than the context is scored in pieces.
        start: The token that stands before each text.
        batch_size: Pieces at a time; no piece sees what fills a batch up behind it.
    """
    device, size = next(model.parameters()).device, model.context_length
    pieces = [
        torch.tensor([start, *text][begin : begin + size + 1])
        for text in texts
        for begin in range(0, len(text), size)
    ]
    pieces.sort(key=len)
    loss = TokenLoss().to(device)
    with evaluating(model):
        for begin in range(0, len(pieces), batch_size):
            batch = pieces[begin : begin + batch_size]
            tokens = pad_sequence([piece[:-1] for piece in batch], True, start).to(device)
            targets = pad_sequence([piece[1:] for piece in batch], True, IGNORED).to(device)
            loss.update(model(tokens).cross_entropy(targets), targets)
        return math.exp(loss.compute().nats) if loss.targets else math.nan


def distinct_2(texts: Sequence[str]) -> float:
    """Different pairs of neighbouring words over all such pairs (Li et al. 2016); NaN without."""
    pairs = [pair for text in texts for pair in pairwise(text.split())]
    return len(set(pairs)) / len(pairs) if pairs else math.nan
