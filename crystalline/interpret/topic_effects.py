"""Codes that make a model speak of a topic, found by what they do to its predictions.

All codes are ranked to first order (`held_effects`), the best are held one by one and measured, and
as many are kept as text at hand can bear.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crystalline.contract import LanguageModel, ModelOutput
from crystalline.errors import UserError
from crystalline.eval_mode import evaluating
from crystalline.interpret.attribution import held_effects
from crystalline.interpret.code_search import matched_tokens
from crystalline.interpret.effects import kl
from crystalline.interpret.interventions import clamp_rows
from crystalline.interpret.reading import Reading
from crystalline.interpret.sites import Code, Site, find_sites, fitting
from crystalline.interpret.topics import topic_pattern
from crystalline.tokenizer import Tokenizer

_MAX_VALUES = 1 << 26
"""Scores of one pass: 256 MiB."""
_RARE = 20
"""A code that was chosen less often is no candidate."""


class Moving(NamedTuple):
    """A code, and what holding it at every position does."""

    code: Code
    gain: float
    """Log of the factor by which expected mentions grow, in nats."""
    cost: float
    """KL divergence, in nats a token, of the predictions without it from those with it."""


def own_tokens(reading: Reading, tokenizer: Tokenizer, words: Sequence[str]) -> Int[Tensor, " n"]:
    """Tokens that begin a mention of `words` in most places where they stand.

    Raises:
        UserError: If there is none: text does not speak of the topic, or in pieces that it shares
            with all else, as bytes are.
    """
    marked = matched_tokens(reading, tokenizer, topic_pattern(words))
    begins = marked & ~(np.roll(marked, 1) & ~reading.window_start)
    size = tokenizer.vocab_size
    mentions = np.bincount(reading.tokens[begins], minlength=size)
    everywhere = np.bincount(reading.tokens, minlength=size)
    own = np.flatnonzero((mentions > 0) & (2 * mentions > everywhere))
    if not len(own):
        raise UserError(
            f"topic=[{','.join(words)}]: no token stands for it; take a tokenizer with words, read "
            "more sequences, or choose=firing"
        )
    return torch.from_numpy(own)


def moving_codes(
    model: LanguageModel,
    windows: Int[Tensor, "batch pos"],
    wanted: Int[Tensor, " n"],
    counts: Mapping[str, Int[Tensor, "levels codebook_size"]],
    *,
    candidates: int,
    num_codes: int,
    codes_per_book: int,
    max_cost: float,
) -> list[Moving]:
    """The codes that make `wanted` most frequent, for what they change otherwise.

    They are ordered by gain / sqrt(cost): a push twice as strong gains twice and costs four times,
    so that this tells directions apart and not lengths.

    Args:
        model: Its mode is the same afterwards.
        windows: Text, on any device.
        wanted: Tokens of the topic.
        counts: How often each code was chosen; see `code_counts`.
        candidates: Codes of each book that are measured, the best to first order: of all books
            together they would be the first layer's, which disturb most.
        num_codes: Codes that are held together, at most.
        codes_per_book: Of each book, at most, and no more than it has slots.
        max_cost: Nats a token that all of them may cost together.

    Returns:
        The best first; empty if none gains anything at this cost.
    """
    device = next(model.parameters()).device
    windows, wanted, sites = windows.to(device), wanted.to(device), find_sites(model)
    measure = _Measure(model, sites, windows, wanted)

    def expected(output: ModelOutput) -> Float[Tensor, ""]:
        return _log_share(output.logits.float().log_softmax(-1), wanted)

    effects = held_effects(model, windows, expected)
    first = [code for site in effects for code in _best(site, effects, counts, candidates)]
    figures = measure([[code] for code in first])
    found = [Moving(code, *each) for code, each in zip(first, figures, strict=True)]
    found = [each for each in found if each.gain > 0 and each.cost > 0]
    found.sort(key=lambda each: -each.gain / each.cost**0.5)
    room = {name: min(codes_per_book, site.room) for name, site in sites.items()}
    fits = fitting((each.code for each in found), room)
    kept = [each for each, fit in zip(found, fits, strict=True) if fit][:num_codes]
    codes = [each.code for each in kept]
    together = measure([codes[: n + 1] for n in range(len(codes))])
    fits = (number for number, (_, cost) in enumerate(together, 1) if cost <= max_cost)
    return kept[: max(fits, default=0)]


class _Measure:
    """Gain and cost of held codes."""

    def __init__(
        self,
        model: LanguageModel,
        sites: Mapping[str, Site],
        windows: Int[Tensor, "batch pos"],
        wanted: Int[Tensor, " n"],
    ) -> None:
        self.model, self.sites, self.windows, self.wanted = model, sites, windows, wanted
        with evaluating(model):
            output = model(windows)
            self.before = output.logits.float().log_softmax(-1)
            self.log_share = _log_share(self.before, wanted)

    def __call__(self, arms: Sequence[Sequence[Code]]) -> list[tuple[float, float]]:
        """Of each of `arms`, held at every position."""
        found: list[tuple[float, float]] = []
        most = max(1, _MAX_VALUES // self.before.numel())
        for start in range(0, len(arms), most):
            some = arms[start : start + most]
            with evaluating(self.model):
                held = clamp_rows(self.sites, some)
                output = self.model(self.windows.repeat(len(some), 1), edits=held)
                for log_probs in output.logits.float().log_softmax(-1).chunk(len(some)):
                    gain = _log_share(log_probs, self.wanted) - self.log_share
                    cost = kl(self.before, log_probs).mean()
                    found.append((float(gain), float(cost)))
        return found


def _log_share(
    log_probs: Float[Tensor, "batch pos vocab"], wanted: Int[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Log of the share of positions that one of `wanted` is expected to follow.

    A mean of log probabilities would count what happens where no mention is to be expected anyway.
    """
    return log_probs[..., wanted].flatten().logsumexp(0) - math.log(log_probs[..., 0].numel())


def _best(
    site: str,
    effects: Mapping[str, Float[Tensor, "levels codebook_size"]],
    counts: Mapping[str, Int[Tensor, "levels codebook_size"]],
    most: int,
) -> list[Code]:
    """Codes of the largest effects in each book that are not rare; none where all are 0."""
    if not effects[site].any():
        return []
    rare = counts[site] < _RARE
    effect = effects[site].cpu().masked_fill(rare, -torch.inf)
    values, codes = effect.topk(min(most, effect.shape[1]))
    places = (values > -torch.inf).nonzero().tolist()
    return [Code(site, level, int(codes[level, column])) for level, column in places]
