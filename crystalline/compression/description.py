"""How a model tells a text: which symbols, one after the other, each from those before it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from crystalline.contract import LanguageModel

Place = tuple[str, tuple[int, ...]]
"""A kind of symbol, and which of that kind."""


class Question(NamedTuple):
    """A symbol that is told next, and what the model expects of it."""

    place: Place
    scores: Float[Tensor, " choice"]
    """Of every symbol that there could be; chances are their softmax."""


class Description:
    """The tokens themselves, by the model's next-token scores, one step of its cache each.

    Whoever asks the model and whoever listens run `questions`, on the same machine and with the
    same software: then the same numbers come out of it, to the last bit. A family that tells more
    than tokens has a class of its own (`LanguageModel.description`).

    Args:
        model: In evaluation, without gradients: see `crystalline.eval_mode.evaluating`.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    def questions(self, first: Int[Tensor, "1 1"], count: int) -> Generator[Question, int, None]:
        """Ask for what describes the `count` tokens after `first`; each is answered by its symbol.

        The answer to ("token", (t,)) is token t of those `count`.
        """
        cache, token = self.model.init_cache(1), first
        for t in range(count):
            answer = yield Question(("token", (t,)), self.model.step(token, cache)[0, -1])
            token = first.new_full((1, 1), answer)

    def answers(self, tokens: Int[Tensor, " pos"]) -> Mapping[Place, int]:
        """What `questions(tokens[:1], len(tokens) - 1)` has to be told."""
        return {("token", (t,)): token for t, token in enumerate(tokens[1:].tolist())}
