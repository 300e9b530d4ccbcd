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
from crystalline.models.abstractinator.compressor import Segments
from crystalline.models.abstractinator.level import Abstractinator
from crystalline.models.abstractinator.symbols import Symbols
from crystalline.models.abstractinator.top import CodeSequenceTransformer


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
            foretold of them: a reconstruction. Without a cache.
    """
    costs: list[Costs] = []
    draw = cache is not None and cache.draw
    for index in reversed(range(len(climbs))):
        level, (symbols, sight, segments) = levels[index], climbs[index]
        contexts = said
        if by_code and said is not None:
            head = top.code_head
            if index + 1 < len(levels):
                head = levels[index + 1].expander.code_head
            book = level.compressor.quantizer
            assert head is not None
            assert book is not None
            if draw:
                told = book.lookup(head.drawn(said, book.codes)).sum(-2)
            else:
                told = head.foretold(said, book.codes)
            contexts = book.as_output(told)
        part = None
        if cache is not None:
            part = cache.levels[index]
            if draw and contexts is not None and above is not None:
                contexts = _known(contexts, above, segments)
            contexts, document = _remember(part, contexts, above)
        else:
            assert contexts is not None
            assert above is not None
            document = above.document
            if own:
                spare = torch.zeros_like(contexts[:, :1])
                whole = torch.cat([segments.finished, spare[..., 0].bool()], 1)
                contexts = torch.where(
                    whole[..., None], torch.cat([segments.vectors, spare], 1), contexts
                )
        said = level.expand(symbols, sight, segments, contexts, document, part)
        above = symbols
        if level.expander.code_head is not None and cache is None:
            books = levels[index - 1].compressor.books
            assert books is not None
            assert symbols.codes is not None
            nats = level.expander.code_head.nats(said[:, :-1], books, symbols.codes[:, 1:])
            costs.append(Costs(nats, symbols.real[:, 1:]))
    assert said is not None
    return said, costs


def _known(
    drawn: Float[Tensor, "batch new d_model"], above: Symbols, segments: Segments
) -> Float[Tensor, "batch new d_model"]:
    """What new segments are spoken from: their own codes, where they have already ended."""
    slot = above.positions - segments.numbers[:, :1]
    inside = (slot >= 0) & (slot < segments.numbers.shape[1])
    slot = slot.clamp(0, segments.numbers.shape[1] - 1)
    ended = inside & segments.finished.gather(1, slot)
    own = segments.vectors.gather(1, slot[..., None].expand(*slot.shape, drawn.shape[-1]))
    return torch.where(ended[..., None], own, drawn)


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


def top_costs(
    top: CodeSequenceTransformer,
    level: Abstractinator,
    said: Float[Tensor, "batch symbol d_model"] | None,
    topmost: Symbols | None,
) -> Costs:
    """Of the codes of the last level, as the top foretells them."""
    books = level.compressor.books
    assert said is not None
    assert topmost is not None
    assert topmost.codes is not None
    assert top.code_head is not None
    assert books is not None
    nats = top.code_head.nats(said[:, :-1], books, topmost.codes[:, 1:])
    return Costs(nats, topmost.real[:, 1:])


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
