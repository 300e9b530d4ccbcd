"""Tokens to codes and back, and what both cost."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crystalline.contract import Choice, Codes
from crystalline.models.abstractinator.descent import foreteller
from crystalline.models.abstractinator.levels_and_top import LevelsAndTop
from crystalline.models.abstractinator.symbols import Sight, Symbols


@torch.no_grad()
def compress_all(model: LevelsAndTop, tokens: Int[Tensor, "batch pos"]) -> list[Codes]:
    """The codes of all finished segments, level by level; what follows the last one is left out."""
    return list(model(tokens, codes=True).codes.values())


@torch.no_grad()
def code_length(
    model: LevelsAndTop, tokens: Int[Tensor, "batch pos"]
) -> dict[str, Float[Tensor, " batch"]]:
    """Nats of a two-part description of every token but the first.

    "tokens": each from those before and the code of its segment (of a segment that is not finished:
    from what is foretold of it). "codes": of all levels, each from what is above, and the top's
    from those before. In the order in which they come, a segment's code before its symbols, every
    term knows the past alone, so their sum bounds -ln p(tokens). "tokens" alone does not: it is the
    cost of a reconstruction.

    Raises:
        ValueError: In mode latent_conditioning, which speaks from no code of its own.
    """
    _needs_codes(model)
    spoken = model.reconstruct(tokens)
    assert spoken is not None
    nats = spoken.output.cross_entropy(tokens.roll(-1, 1)).nats[:, :-1]
    return {"tokens": nats.sum(1), "codes": spoken.code_nats}


@torch.no_grad()
def expand(
    model: LevelsAndTop,
    codes: Int[Tensor, "segment levels"],
    prompt: Int[Tensor, " given"],
) -> Int[Tensor, " pos"]:
    """`prompt` and the likeliest tokens, one by one, of segments whose codes are given.

    The model cuts what it writes as it would cut what it reads, so nothing but the codes of its
    first level and the very first token has to be stored. What comes back is the text if every
    token was the likeliest one, given its code and those before.

    Args:
        model: In mode discrete; put into evaluation by the caller.
        codes: Of one text, in the order of its segments; those of the prompt come first.
        prompt: At least the text's first token.

    Raises:
        ValueError: In mode latent_conditioning, which speaks from no code of its own.
    """
    _needs_codes(model)
    level, count = model.levels[0], len(codes)
    book = level.compressor.quantizer
    assert book is not None
    cache = model.init_cache(1)
    part = cache.levels[0]
    rows = torch.arange(count, device=codes.device)[None]
    part.contexts.write("context", rows, book.as_output(book.lookup(codes[None]).sum(-2)))

    def told(choice: Choice) -> Tensor:
        return codes[choice.positions.clamp(max=count - 1)][None]

    tokens = prompt[None]
    while True:
        token = tokens[:, cache.position, None]
        symbols = model.read(token, cache)
        sight = Sight(symbols, model.document_end is not None, part.symbols)
        segments = level.compressor(symbols, sight, None, part, told)
        if int(part.segmenter.finished) >= count or cache.position + 1 >= model.context_length:
            return tokens[0, : cache.position + 1]
        document = part.contexts.write("document", segments.cut.aim, symbols.document)
        contexts = part.contexts.held["context"][:, : part.contexts.length]
        hidden = level.expand(symbols, sight, segments, contexts, document, part)
        cache.position += 1
        if cache.position == tokens.shape[1]:
            tokens = torch.cat([tokens, (hidden @ model.head.T).argmax(-1)], 1)


@torch.no_grad()
def generate_codes(
    model: LevelsAndTop, prompt: Int[Tensor, " given"], max_codes: int
) -> Int[Tensor, "segment levels"]:
    """The codes of the prompt's segments, and drawn ones behind them: the seed's order.

    All codes come first, each drawn given those before, and `expand` writes their tokens in one
    go; `generate_bytes` instead lets the top read what has been written. No code ends a text, so
    it has as many as there is room for.

    Args:
        model: In mode discrete, of one level; put into evaluation by the caller.
        prompt: At least one token. Its last segment may be open: it is given a code as well.
        max_codes: Of the whole text, at most.

    Raises:
        ValueError: In mode latent_conditioning, and of more levels: the codes of lower ones are cut
            by what is written.
    """
    _needs_codes(model)
    if len(model.levels) > 1:
        raise ValueError(f"codes come first on one level alone, there are {len(model.levels)}")
    level, cache = model.levels[0], model.init_cache(1)
    head, book = foreteller(model.levels, model.top, 0)
    climbs, above = model.climb(model.read(prompt[None], cache), {}, cache)
    chosen = climbs[0].segments.chosen
    assert chosen is not None
    codes = chosen.indices[climbs[0].segments.finished]
    while above is not None and len(codes) < min(max_codes, level.max_segments):
        said = model.speak(above, cache)
        assert said is not None
        new = head.drawn(said[:, int(above.real.sum()) - 1 :][:, :1], book.codes)
        codes = torch.cat([codes, new[0]])
        count = new.new_full((1, 1), len(codes))
        real = torch.ones_like(count, dtype=torch.bool)
        vectors = book.as_output(book.lookup(new).sum(-2))
        above = Symbols(count, real, ~real, above.document[:, -1:], count, None, vectors, new)
    return codes[:max_codes]


@torch.no_grad()
def generate_bytes(
    model: LevelsAndTop,
    prompt: Int[Tensor, "batch pos"],
    max_new_tokens: int,
    temperature: float = 1.0,
) -> Int[Tensor, "batch longer"]:
    """`prompt` and what follows it; in mode discrete through a code that is drawn a segment.

    Args:
        model: Put into evaluation by the caller.
        prompt: At least one token.
        max_new_tokens: No more than the context has room for are written.
        temperature: Of tokens; 0: the likeliest ones, through the mean of the foretold codes.
    """
    cache = model.init_cache(len(prompt))
    cache.draw = temperature > 0
    text, new = prompt, prompt
    for _ in range(min(max_new_tokens, model.context_length - prompt.shape[1])):
        scores = model.step(new, cache)[:, -1].float()
        if temperature > 0:
            new = torch.multinomial((scores / temperature).softmax(-1), 1)
        else:
            new = scores.argmax(-1, keepdim=True)
        text = torch.cat([text, new], 1)
    return text


def _needs_codes(model: LevelsAndTop) -> None:
    if model.mode != "discrete":
        raise ValueError("model.mode must be discrete: else segments are not written from codes")
