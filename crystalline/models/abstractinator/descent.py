"""The way down: every level is told what the one above says, and says more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crystalline.layers.parts import Parts
from crystalline.layers.precision import at_least_fp32
from crystalline.models.abstractinator.cache import LevelCache, PyramidCache
from crystalline.models.abstractinator.climb import Climb
from crystalline.models.abstractinator.code_head import CodeHead
from crystalline.models.abstractinator.compressor import Segments
from crystalline.models.abstractinator.level import Abstractinator
from crystalline.models.abstractinator.symbols import Symbols
from crystalline.models.abstractinator.top import CodeSequenceTransformer
from crystalline.quantizers.codebook import Codebook


class Costs(NamedTuple):
    """What symbols cost where they are foretold."""

    nats: Float[Tensor, "batch pos"]
    real: Bool[Tensor, "batch pos"]
    """False at padding."""


def descend(
    levels: Parts[Abstractinator],
    top: CodeSequenceTransformer,
    climbs: Sequence[Climb],
    said: Float[Tensor, "batch symbol d_model"] | None,
    above: Symbols | None,
    cache: PyramidCache | None,
    *,
    by_code: bool,
    own: bool,
) -> tuple[Float[Tensor, "batch pos d_model"], list[Costs]]:
    """What the first level says after each token, and what codes cost on the way.

    Args:
        levels: All of them.
        top: What spoke first.
        climbs: The way up; with a cache, the levels that have something new.
        said: What the top says; None if nothing new has reached it.
        above: The symbols it says it after.
        cache: Of earlier positions.
        by_code: Whether a level is told a code (mode discrete) and not a vector.
        own: Whether finished segments are spoken from their own codes, instead of from what is
            foretold of them: a reconstruction. With codes that are drawn it is always so.
    """
    costs: list[Costs] = []
    draw = cache is not None and cache.draw
    for index in reversed(range(len(climbs))):
        level, (symbols, sight, segments) = levels[index], climbs[index]
        contexts = said
        if by_code and said is not None:
            head, book = foreteller(levels, top, index)
            if draw:
                told = book.lookup(head.drawn(said, book.codes)).sum(-2)
            else:
                told = head.foretold(said, book.codes)
            contexts = book.as_output(told)
        if (own or draw) and contexts is not None and above is not None:
            contexts = _known(contexts, above, segments)
        part = None if cache is None else cache.levels[index]
        if part is not None:
            contexts, document = _remember(part, contexts, above)
        else:
            assert contexts is not None
            assert above is not None
            document = above.document
        said = level.expand(symbols, sight, segments, contexts, document, part)
        above = symbols
        if level.expander.code_head is not None and cache is None:
            costs.append(code_costs(levels, top, index - 1, said, symbols))
    assert said is not None
    return said, costs


def foreteller(
    levels: Parts[Abstractinator], top: CodeSequenceTransformer, index: int
) -> tuple[CodeHead, Codebook]:
    """Who foretells a level's codes, which the one above it has, and what they are codes of."""
    head = levels[index + 1].expander.code_head if index + 1 < len(levels) else top.code_head
    book = levels[index].compressor.quantizer
    assert head is not None
    assert book is not None
    return head, book


def code_costs(
    levels: Parts[Abstractinator],
    top: CodeSequenceTransformer,
    index: int,
    said: Float[Tensor, "batch symbol d_model"] | None,
    above: Symbols | None,
) -> Costs:
    """Of a level's codes, by what is said above it after each of its segments."""
    head, book = foreteller(levels, top, index)
    assert said is not None
    assert above is not None
    assert above.codes is not None
    nats = head.nats(said[:, :-1], book.codes.detach(), above.codes[:, 1:])
    return Costs(nats, above.real[:, 1:])


def _known(
    foretold: Float[Tensor, "batch new d_model"], above: Symbols, segments: Segments
) -> Float[Tensor, "batch new d_model"]:
    """What new segments are spoken from: their own codes, where they have already ended."""
    slot = above.positions - segments.numbers[:, :1]
    inside = (slot >= 0) & (slot < segments.numbers.shape[1])
    slot = slot.clamp(0, segments.numbers.shape[1] - 1)
    ended = inside & segments.finished.gather(1, slot)
    own = segments.vectors.gather(1, slot[..., None].expand(*slot.shape, foretold.shape[-1]))
    return torch.where(ended[..., None], own, foretold)


def _remember(
    cache: LevelCache,
    contexts: Float[Tensor, "batch new d_model"] | None,
    above: Symbols | None,
) -> tuple[Float[Tensor, "batch context d_model"], Int[Tensor, "batch context"]]:
    """All that a level has been told of its segments, and their documents."""
    held = cache.contexts
    if contexts is not None and above is not None:
        held.write("context", above.positions, contexts)
        held.write("document", above.positions, above.document)
    return held.held["context"][:, : held.length], held.held["document"][:, : held.length]


def token_costs(
    hidden: Float[Tensor, "batch pos d_model"],
    head: Float[Tensor, "vocab d_model"],
    symbols: Symbols,
) -> Costs:
    """Of every token but the first."""
    assert symbols.tokens is not None
    scores = at_least_fp32(F.linear(hidden[:, :-1], head))
    nats = F.cross_entropy(scores.mT, symbols.tokens[:, 1:], reduction="none")
    return Costs(nats, symbols.real[:, 1:])
