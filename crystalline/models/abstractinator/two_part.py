"""Mode discrete as a message: the code of a segment when it opens, then its tokens."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from crystalline.compression.description import Description, Place, Question
from crystalline.models.abstractinator.cache import PyramidCache
from crystalline.models.abstractinator.climb import Climb
from crystalline.models.abstractinator.descent import foreteller
from crystalline.models.abstractinator.levels_and_top import LevelsAndTop
from crystalline.models.abstractinator.symbols import Symbols

Asking = Generator[Question, int, Float[Tensor, "batch new d_model"]]
"""Asks for codes, and returns a vector."""


class TwoPart(Description):
    """Tells what a segment is before its tokens, from the top down: each from what is above.

        ("end", (level, segment))           whether it ends before the text does: 0 or 1
        ("code", (level, segment, book))    its code, if it does
        ("token", (t,))

    A segment that does not end has no code and is spoken from what is foretold of it, as in
    `codec.code_length`. Less than there, codes are not told of segments that no token is told of,
    such as that of a separator in front; more than there, the ends are, of which `code_length`
    takes for granted which is the last one: a bit or a few a text and level.

    Args:
        model: In mode discrete.
    """

    model: LevelsAndTop

    def questions(self, first: Int[Tensor, "1 1"], count: int) -> Generator[Question, int, None]:
        model, cache, token = self.model, self.model.init_cache(1), first
        for t in range(count):
            climbs, topmost = model.climb(model.read(token, cache), {}, cache)
            hidden = yield from self._descend(climbs, topmost, cache, count - t)
            cache.position += 1
            answer = yield Question(("token", (t,)), F.linear(hidden, model.head)[0, -1])
            token = first.new_full((1, 1), answer)

    def answers(self, tokens: Int[Tensor, " pos"]) -> Mapping[Place, int]:
        """From a first pass, step by step: the cuts are those that `questions` will find."""
        model, cache = self.model, self.model.init_cache(1)
        known = dict(super().answers(tokens))
        for token in tokens:
            climbs, _ = model.climb(model.read(token[None, None], cache), {}, cache)
            cache.position += 1
            for index, climb in enumerate(climbs):
                known |= _finished(index, climb)
        for index, part in enumerate(cache.levels):
            known["end", (index, int(part.segmenter.finished))] = 0
        return known

    def _descend(
        self, climbs: Sequence[Climb], topmost: Symbols | None, cache: PyramidCache, ahead: int
    ) -> Asking:
        """As `descent.descend`, for one token more of one text, told codes instead of means."""
        model = self.model
        said, above = model.speak(topmost, cache), topmost
        for index in reversed(range(len(climbs))):
            level, part = model.levels[index], cache.levels[index]
            symbols, sight, segments = climbs[index]
            if said is not None and above is not None:  # a segment has been opened
                last = int(above.real.sum()) - 1
                number = above.positions[:, last : last + 1]
                h = said[:, last : last + 1]
                told = yield from self._told(index, int(number), h, cache, ahead)
                # The first step may open and end segments that nobody was told of.
                ended = torch.where(segments.finished, segments.numbers, part.contexts.length)
                part.contexts.write("context", ended, segments.vectors)
                part.contexts.write("context", number, told)
                part.contexts.write("document", above.positions, above.document)
            rows = part.contexts.held
            known = slice(part.contexts.length)
            contexts, documents = rows["context"][:, known], rows["document"][:, known]
            said = level.expand(symbols, sight, segments, contexts, documents, part)
            above = symbols
        assert said is not None
        return said

    def _told(
        self,
        index: int,
        number: int,
        h: Float[Tensor, "1 1 d_model"],
        cache: PyramidCache,
        ahead: int,
    ) -> Asking:
        """The context of a segment: its code, if it has one."""
        head, book = foreteller(self.model.levels, self.model.top, index)
        if number == self.model.levels[index].max_segments - 1:  # the rest of a crowded text
            return book.as_output(head.foretold(h, book.codes))
        finished = int(cache.levels[index].segmenter.finished)
        scores = _end_scores(cache.position + 1, finished, ahead)
        if not (yield Question(("end", (index, number)), scores.to(h.device))):
            return book.as_output(head.foretold(h, book.codes))
        codes = torch.zeros(1, 1, len(book.codes), dtype=torch.int64, device=h.device)
        for part, scores in enumerate(head.scores(h, book.codes, codes)):
            # The head reads the answer before it goes on to the next book.
            codes[..., part] = yield Question(("code", (index, number, part)), scores[0, 0])
        return book.as_output(book.lookup(codes).sum(-2))


def _finished(index: int, climb: Climb) -> dict[Place, int]:
    """Answers about the segments that have just ended."""
    segments, known = climb.segments, {}
    assert segments.chosen is not None
    for slot in segments.finished[0].nonzero()[:, 0].tolist():
        number = int(segments.numbers[0, slot])
        known["end", (index, number)] = 1
        for part, code in enumerate(segments.chosen.indices[0, slot].tolist()):
            known["code", (index, number, part)] = code
    return known


def _end_scores(seen: int, finished: int, ahead: int) -> Float[Tensor, " choice"]:
    """Of no and yes: does a segment end within `ahead` tokens, if any token may end it?

    With a chance of (ended so far + 1) / (tokens so far + 2) each: the rule of succession.
    """
    # Above the first level, separators in front end more segments than there are tokens.
    stays = ahead * math.log1p(-(min(finished, seen) + 1) / (seen + 2))
    scores = [stays, math.log(-math.expm1(stays))]
    return torch.tensor(scores, dtype=torch.float64)
