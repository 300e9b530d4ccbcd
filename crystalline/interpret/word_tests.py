"""Causal tests: does a coordinate of a state mean the word that it is named after?

One coordinate of one position is set to zero, or exchanged with another, after some pass. The lens
predicts what that does to the scores if nothing later read the state; the model shows what it does.
The control moves the state as far along coordinates that are rotated at random, where none is a
word.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crystalline.eval_mode import evaluating
from crystalline.interpret.effects import centred, kl
from crystalline.interpret.word_trace import changed_state
from crystalline.models.vocab_space.model import VocabSpace

CHANGES = ("zero", "exchange")
_AMONG = 8
"""The coordinate changed is drawn from so many of the largest."""
_DIRECTIONS = 1024
"""Rotated coordinates that are computed, at most: a choice of the vocabulary's."""
_ONE = 1 - 1e-12
"""A correlation of 1, in `interval`, where 1 itself would be infinite."""


def rotation(vocab_size: int, generator: torch.Generator) -> Float[Tensor, "vocab directions"]:
    """Orthonormal directions in the space of words, drawn uniformly; fp32."""
    drawn = torch.randn(vocab_size, min(vocab_size, _DIRECTIONS), generator=generator)
    return torch.linalg.qr(drawn).Q


@dataclass(frozen=True)
class Outcome:
    """What one change did, a row each."""

    predicted: Float[Tensor, " rows"]
    """Change of a word's score over the mean score, by the lens: of the word that it says changes
    most."""
    measured: Float[Tensor, " rows"]
    """Change of the same word's in the output."""
    here: Float[Tensor, " rows"]
    """KL(as it was || changed) of the output at the position, nats."""
    later: Float[Tensor, " rows"]
    """Its mean over later positions."""
    breadth: Float[Tensor, " rows"]
    """(sum d^2)^2 / sum d^4 of the changes d of all scores here: how many words are moved."""
    size: Float[Tensor, " rows"]
    """Euclidean length of the change of the state."""


FIGURES = tuple(field.name for field in fields(Outcome))


def change_states(
    model: VocabSpace,
    tokens: Int[Tensor, "rows pos"],
    number: int,
    change: str,
    directions: Float[Tensor, "vocab directions"] | None,
    generator: torch.Generator,
) -> Outcome:
    """Change a coordinate in the middle of each row, after pass `number`.

    Args:
        model: Its mode is the same afterwards.
        tokens: int64, on its device.
        number: Of the pass, from 0.
        change: "zero", or "exchange" with any other coordinate.
        directions: The coordinates; None: the words.
        generator: Draws which coordinates, on the CPU.
    """
    at = tokens.shape[1] // 2
    reads: list[Tensor] = []

    def clean(read: Tensor) -> Tensor:
        reads.append(read)
        return read

    def changed(read: Tensor) -> Tensor:
        here = read[:, at].float()
        step = _step(here, change, None, generator)
        if directions is not None:
            other = _step(here, change, directions, generator)
            step = other * (step.norm(dim=-1) / other.norm(dim=-1).clamp_min(1e-12))[:, None]
        moved = read.clone()
        moved[:, at] += step.to(read.dtype)
        reads.append(moved)
        return moved

    logits = []
    with evaluating(model):
        for act in (clean, changed):
            # A model that draws in evaluation, as some were published, draws the same twice.
            with _same_draws(tokens.device), changed_state(model, number, act) as edits:
                logits.append(model(tokens, edits=edits).logits.float())
        before, after = (read[:, at].float() for read in reads)
        lens = centred(model.head(after) - model.head(before))
        output = centred(logits[1] - logits[0])[:, at]
    word = lens.abs().argmax(-1, keepdim=True)
    divergence = kl(*logits)
    squares = output.square()
    return Outcome(
        predicted=lens.gather(-1, word)[:, 0],
        measured=output.gather(-1, word)[:, 0],
        here=divergence[:, at],
        later=divergence[:, at + 1 :].mean(-1),
        breadth=squares.sum(-1).square() / squares.square().sum(-1).clamp_min(1e-30),
        size=(after - before).norm(dim=-1),
    )


@contextmanager
def _same_draws(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


def _step(
    read: Float[Tensor, "rows vocab"],
    change: str,
    directions: Tensor | None,
    generator: torch.Generator,
) -> Float[Tensor, "rows vocab"]:
    """What is added to `read`."""
    y = read if directions is None else read @ directions
    rows, count = y.shape
    largest = y.abs().topk(min(_AMONG, count)).indices.cpu()
    which = torch.randint(largest.shape[1], (rows, 1), generator=generator)
    one = largest.gather(1, which)
    other = (one + torch.randint(1, count, (rows, 1), generator=generator)) % count
    one, other = one.to(y.device), other.to(y.device)
    move = torch.zeros_like(y)
    if change == "zero":
        move.scatter_(1, one, -y.gather(1, one))
    else:
        difference = y.gather(1, other) - y.gather(1, one)
        move.scatter_(1, one, difference).scatter_(1, other, -difference)
    return move if directions is None else move @ directions.T


def outcome_rows(
    model: VocabSpace, batches: Sequence[Int[Tensor, "_ _"]], seed: int = 0
) -> list[dict[str, Any]]:
    """A row for each pass but the last, change and kind of coordinates: means over all texts.

    `batches` are int64 (rows, pos), each with its own number of rows.

    `faithful` is the correlation of predicted and measured changes over the texts, from `low` to
    `high` its interval, `slope` that of the line through zero: 1 where nothing later answers.
    """
    generator = torch.Generator().manual_seed(seed)
    rotated = rotation(model.vocab_size, generator).to(batches[0].device)
    rows = []
    for number in range(len(model.words) - 1):
        for change in CHANGES:
            for kind, directions in {"words": None, "rotated": rotated}.items():
                found = [
                    change_states(model, tokens, number, change, directions, generator)
                    for tokens in batches
                ]
                figures = {
                    f: torch.cat([getattr(each, f) for each in found]).double() for f in FIGURES
                }
                x, y = figures["predicted"], figures["measured"]
                faithful = correlation(x, y)
                low, high = interval(faithful, len(x))
                rows.append({
                    "pass": number + 1, "change": change, "coordinates": kind,
                    "faithful": faithful, "low": low, "high": high,
                    "slope": float((x * y).sum() / (x * x).sum()),
                    **{name: float(values.mean()) for name, values in figures.items()},
                })  # fmt: skip
    return rows


def correlation(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> float:
    """Pearson's; NaN where one does not vary."""
    x, y = x - x.mean(), y - y.mean()
    scale = float(x.norm() * y.norm())
    return float(x @ y) / scale if scale else math.nan


def interval(r: float, number: int) -> tuple[float, float]:
    """Where a correlation lies in 95 % of cases if it is r over so many pairs (Fisher's z)."""
    if math.isnan(r):
        return math.nan, math.nan
    if number <= 3:
        return -1.0, 1.0
    z, half = math.atanh(max(-_ONE, min(_ONE, r))), 1.96 / math.sqrt(number - 3)
    return min(r, math.tanh(z - half)), max(r, math.tanh(z + half))
