"""What a vocabulary-space model does with a text: states, what parts add, which ways they take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crystalline.contract import Choice
from crystalline.eval_mode import evaluating
from crystalline.models.vocab_space.blocks import Added
from crystalline.models.vocab_space.model import VocabSpace
from crystalline.models.vocab_space.readable import Mixture, Readable

REST = "rest"
"""What a step changes beside its parts."""
Words = Float[Tensor, "batch pos vocab"]


@dataclass(frozen=True)
class WordTrace:
    """One pass over a text in evaluation mode; fp32."""

    tokens: Int[Tensor, "batch pos"]
    start: Words
    """x_0."""
    carried: Words
    """What states after a pass have of x_0: all of it, or nothing once it is forgotten."""
    states: list[Words]
    """After each pass through a step."""
    last: Words
    """The state that the head reads: the last one, unless the model mixes several."""
    logits: Words
    updates: dict[str, Words]
    """What each part of a step adds, and the `REST` of the step, in the order of computation; names
    are paths, the second and further calls of a shared one end in "@2", ..."""
    passes: dict[str, int]
    """The pass that each update is of, from 0."""
    weights: Float[Tensor, "passes *#positions 1"]
    """By what the updates of each pass count in `last`."""
    mixtures: dict[str, Mixture]
    """Ways taken, by part and name: "steps.0.parts.1.ops"."""


def trace(model: VocabSpace, tokens: Int[Tensor, "batch pos"]) -> WordTrace:
    """Run the model and keep everything.

    Memory is that of (passes + parts) states. The model's mode is the same afterwards.

    Args:
        model: Of the family.
        tokens: int64, on its device.
    """
    reads: list[Tensor] = []
    heads: list[Tensor] = []
    book = _Book(model.vocab_size)
    with evaluating(model), ExitStack() as hooks:
        for words in model.words:
            hooks.enter_context(_hook(words, lambda _, inputs, __: reads.append(inputs[0])))
        hooks.enter_context(_hook(model.head, lambda _, inputs, __: heads.append(inputs[0])))
        for name, part in model.named_modules():
            if isinstance(part, Added) or part in model.steps:
                hooks.enter_context(_hook(part, book.update_of(name, isinstance(part, Added))))
            if isinstance(part, Readable):
                hooks.enter_context(_hook(part, book.mixtures_of(name)))
        logits = model(tokens, codes=True).logits.float()
    with evaluating(model):  # without hooks: asking parts for weights is no call of theirs
        start = model.start(tokens).float()
        states = [model.head.put_back(read.float(), start) for read in reads]
        last = model.head.put_back(heads[-1].float(), start)
        carried = torch.zeros_like(start) if model.head.forgets and states else start
        weights = model.pass_weights(states, carried)
    return WordTrace(
        tokens, start, carried, states, last, logits,
        book.updates, book.passes, weights, book.mixtures,
    )  # fmt: skip


@contextmanager
def changed_state(
    model: VocabSpace, number: int, change: Callable[[Words], Words]
) -> Iterator[dict[str, Any]]:
    """Inside the block, what stands for words after pass `number` is changed.

    Yields:
        `edits=` of the model's calls in the block: it asks for the state to be written back.
    """

    def unlike(_: Any, __: Any, output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        return change(output[0]), output[1]

    with _hook(model.words[number], unlike):
        yield {f"words.{number}": _same}


def _same(choice: Choice) -> Tensor:
    return choice.indices


class _Book:
    """Hooks that note what they see."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self.updates: dict[str, Tensor] = {}
        self.passes: dict[str, int] = {}
        self.mixtures: dict[str, Mixture] = {}
        self._pass = 0
        self._inside: list[Tensor] = []
        """Updates by parts of the step that is running."""

    def update_of(self, name: str, part: bool) -> Callable[..., None]:
        """What a part adds, or what a step adds beside its parts."""
        calls = count(1)

        def keep(_: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            if output.shape[-1] != self._vocab_size:  # inside a slice of the words
                return
            update = output.float() - inputs[0].float()
            here = _numbered(name, next(calls))
            if part:
                self._inside.append(update)
                self._note(here, update)
            else:
                rest = f"{here}.{REST}" if self._inside else here
                self._note(rest, update - sum(self._inside))
                self._inside.clear()
                self._pass += 1

        return keep

    def _note(self, name: str, update: Tensor) -> None:
        self.updates[name] = update
        self.passes[name] = self._pass

    def mixtures_of(self, name: str) -> Callable[..., None]:
        calls = count(1)

        def keep(part: Any, inputs: tuple[Any, ...], _: Any) -> None:
            here = _numbered(name, next(calls))
            given = (each for each in inputs if each is not None)  # there are no caches
            for way, mixture in part.listing(*given).items():
                self.mixtures[f"{here}.{way}"] = mixture

        return keep


def _numbered(name: str, call: int) -> str:
    return name if call == 1 else f"{name}@{call}"


@contextmanager
def _hook(module: torch.nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
