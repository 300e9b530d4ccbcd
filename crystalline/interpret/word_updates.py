"""The update lens: what the head reads is a sum, a term for each part of the model.

    read(x_N) = read(x_0) + sum of weight * update + remainder

The weights are those that a model tells of its passes: 1, but where states are averaged or columns
vote. The remainder is rounding then; more of it stands for what a model does beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crystalline.interpret.word_trace import REST, WordTrace
from crystalline.models.vocab_space.model import Head

START, REMAINDER = "start", "remainder"
_ROUNDING = 1e-5
"""What is left over of this size, or less, is: x_0 has size 1."""
Figure = Float[Tensor, "batch pos"]


@dataclass(frozen=True)
class Push:
    """What one part does at each position."""

    size: Figure
    """Root mean square over the vocabulary."""
    share: Figure
    """Of what is read, r: <update, r> / <r, r>; the shares of all parts have sum 1."""
    breadth: Figure
    """(sum u^2)^2 / sum u^4: how many words a vector that is as concentrated would push alike."""
    next_push: Figure
    """Of the true next token's score over the mean score, before the cap; all parts' have the sum
    that the model's output shows."""
    own_push: Figure
    """The same, of the token that stands here."""
    up: Int[Tensor, "batch pos k"]
    """Words pushed up most."""
    down: Int[Tensor, "batch pos k"]


def parts_of(trace: WordTrace, head: Head) -> dict[str, Float[Tensor, "batch pos vocab"]]:
    """The terms, in the order of computation, with `START` first and `REMAINDER` last."""
    with torch.no_grad():
        counted = {
            name: trace.weights[trace.passes[name]] * update
            for name, update in trace.updates.items()
        }
        left = trace.last - trace.carried - sum(counted.values())
        return {START: head.read(trace.carried, trace.carried), **counted, REMAINDER: left}


def pushes(
    trace: WordTrace, head: Head, targets: Int[Tensor, "batch pos"], top: int = 5
) -> dict[str, Push]:
    """What each part does.

    Args:
        trace: Of `word_trace.trace`.
        head: The model's.
        targets: int64, the token after each; where negative, `next_push` means nothing.
        top: Words listed.
    """
    with torch.no_grad():
        read = head.read(trace.last, trace.start)
        scale = head.gamma * torch.rsqrt(read.square().mean(-1) + 1e-6)
        whole = read.square().sum(-1).clamp_min(1e-12)
        found = {}
        for name, update in parts_of(trace, head).items():
            squares = update.square()
            fourth = squares.square().sum(-1).clamp_min(torch.finfo(update.dtype).tiny)
            centred = update - update.mean(-1, keepdim=True)
            found[name] = Push(
                squares.mean(-1).sqrt(),
                (update * read).sum(-1) / whole,
                squares.sum(-1).square() / fourth,
                scale * centred.gather(-1, targets.clamp(min=0)[..., None])[..., 0],
                scale * centred.gather(-1, trace.tokens[..., None])[..., 0],
                update.topk(top).indices,
                (-update).topk(top).indices,
            )
    return found


def part_rows(
    found: Sequence[dict[str, Push]],
    scored: Sequence[Bool[Tensor, "_ _"]],
    kinds: Mapping[str, str],
    vocab_size: int,
) -> list[dict[str, Any]]:
    """A row for each part: means over the scored positions, and the words it pushes most often.

    What is left over, of the model or of a step, has none where it is rounding.

    Args:
        found: Of `pushes`, of several batches.
        scored: Of each of them, (batch, pos).
        kinds: What to call parts, by path.
        vocab_size: V.
    """
    rows = []
    for name in found[0]:
        each = [(pushed[name], where) for pushed, where in zip(found, scored, strict=True)]
        path = name.removesuffix(f".{REST}").split("@")[0]
        row: dict[str, Any] = {"part": name, "kind": kinds.get(path, "")}
        for figure in ("size", "share", "breadth", "next_push", "own_push"):
            values = torch.cat([getattr(push, figure)[where] for push, where in each])
            row[figure] = float(values.double().mean())
        for way in ("up", "down"):
            words = torch.cat([getattr(push, way)[where] for push, where in each])
            counts = words.flatten().bincount(minlength=vocab_size)
            row[way] = counts.argsort(descending=True, stable=True)[: words.shape[1]].tolist()
        over = name in (START, REMAINDER) or name.endswith(REST)
        if not over or row["size"] > _ROUNDING:
            rows.append(row)
    return rows
