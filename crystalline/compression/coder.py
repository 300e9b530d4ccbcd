"""Tokens to bits and back: a range coder that is fed with a model's chances."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crystalline.compression.description import Question
from crystalline.contract import LanguageModel
from crystalline.errors import UserError
from crystalline.eval_mode import evaluating

log = logging.getLogger(__name__)

OTHERWISE = (
    "the text does not come back: this machine computes the model's scores otherwise than the one "
    "that compressed it; decompress it there"
)


@dataclass(frozen=True)
class Encoded:
    """A text as bits, and what it should have cost."""

    payload: bytes
    bits: dict[str, float]
    """-log2 of the model's chance of what was told, summed by kind of symbol ("token", ...)."""


def encode(model: LanguageModel, tokens: Sequence[int], first: int) -> Encoded:
    """Tell `tokens`, window by window, in as many tokens as the model's context has.

    A window begins with the last token of the one before it, and knows nothing else of it. The
    coder counts chances in units of 2**-24: no symbol costs more than 24 bits.

    Args:
        model: Where it is, in its own precision.
        tokens: Of the text.
        first: The token before them, which is not told.

    Raises:
        UserError: If the package `constriction` is missing or the model's scores are no numbers.
    """
    stream, description = _stream(), model.description()
    coder, bits = stream.queue.RangeEncoder(), defaultdict(float)
    progress = _Progress(len(tokens))
    with evaluating(model):
        for start in range(0, len(tokens), _room(model)):
            window = [tokens[start - 1] if start else first, *tokens[start : start + _room(model)]]
            known = description.answers(_tensor(window, model))

            def tell(question: Question, known: Any = known) -> int:
                symbol, chances = known[question.place], _chances(question)
                coder.encode(symbol, _categorical(stream, chances))
                bits[question.place[0]] -= _log2(question, symbol)
                return symbol

            _ask(description.questions(_tensor(window[:1], model)[None], len(window) - 1), tell)
            progress(start + len(window) - 1)
    return Encoded(coder.get_compressed().astype("<u4").tobytes(), dict(bits))


def decode(model: LanguageModel, payload: bytes, count: int, first: int) -> list[int]:
    """The `count` tokens that `encode` told; see there.

    Raises:
        UserError: If `payload` is none that this model, on this machine, could have told; or as
            `encode`.
    """
    stream, description = _stream(), model.description()
    coder = stream.queue.RangeDecoder(np.frombuffer(payload, "<u4").astype(np.uint32))
    tokens: list[int] = []
    progress = _Progress(count)

    def listen(question: Question) -> int:
        chances = _categorical(stream, _chances(question))
        try:
            symbol = int(coder.decode(chances))
        except AssertionError:  # its word for bits that stand for nothing
            raise UserError(OTHERWISE) from None
        if question.place[0] == "token":
            tokens.append(symbol)
        return symbol

    with evaluating(model):
        while len(tokens) < count:
            before = _tensor([tokens[-1] if tokens else first], model)[None]
            _ask(description.questions(before, min(count - len(tokens), _room(model))), listen)
            progress(len(tokens))
    return tokens


class _Progress:
    """A line in the log twice a minute: a token takes milliseconds."""

    def __init__(self, total: int, every_s: float = 30) -> None:
        self.total = total
        self.every_s = every_s
        self.last_s = self.start_s = time.monotonic()

    def __call__(self, done: int) -> None:
        now_s = time.monotonic()
        if now_s - self.last_s >= self.every_s:
            self.last_s, rate = now_s, done / (now_s - self.start_s)
            log.info("%d of %d tokens, %.0f tokens/s", done, self.total, rate)


def _ask(questions: Generator[Question, int, None], answer: Callable[[Question], int]) -> None:
    with suppress(StopIteration):
        question = next(questions)
        while True:
            question = questions.send(answer(question))


def _room(model: LanguageModel) -> int:
    """Tokens that a window tells."""
    return max(1, model.context_length - 1)


def _tensor(tokens: Sequence[int], model: LanguageModel) -> Int[Tensor, " pos"]:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return torch.tensor(tokens, dtype=torch.int64, device=device)


def _chances(question: Question) -> Float[np.ndarray, " choice"]:
    """In double precision.

    Raises:
        UserError: If they are no numbers.
    """
    chances = question.scores.double().softmax(-1).cpu().numpy()
    if not np.isfinite(chances).all():
        raise UserError("checkpoint: its scores of this text are no numbers; take an earlier one")
    return chances


def _log2(question: Question, symbol: int) -> float:
    return float(question.scores.double().log_softmax(-1)[symbol]) / math.log(2)


def _categorical(stream: Any, chances: Float[np.ndarray, " choice"]) -> Any:
    return stream.model.Categorical(chances, lazy=True, perfect=False)


def _stream() -> Any:
    """The part of `constriction` that codes symbols one by one.

    Raises:
        UserError: If the package is missing.
    """
    if find_spec("constriction") is None:
        raise UserError(
            "compress and decompress need the package constriction: "
            "pip install 'crystalline-lm[compress]'"
        )
    import constriction

    return constriction.stream  # type: ignore[attr-defined]
