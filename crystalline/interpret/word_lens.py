"""The state lens: what a model would say if it ended after each pass.

Every state is read by the model's own head, so the lens has no parameter and is exact at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crystalline.interpret.effects import kl
from crystalline.interpret.word_trace import WordTrace
from crystalline.models.vocab_space.model import Head

View = Callable[[Tensor, Tensor], Tensor]


def views(head: Head) -> dict[str, View]:
    """What is read of (x, x_0): the state, what it has that the first had not, the head's own."""
    return {
        "state": lambda x, start: x,
        "delta": lambda x, start: x - start,
        head.readout: head.read,
    }


@dataclass(frozen=True)
class Lens:
    """Figures of each state: 0 is x_0, d the state after d passes."""

    size: Float[Tensor, "depth batch pos"]
    """Root mean square of what is read."""
    entropy: Float[Tensor, "depth batch pos"]
    """Of the words' distribution, nats."""
    kl: Float[Tensor, "depth batch pos"]
    """KL(this || the model's output), nats."""
    next_rank: Float[Tensor, "depth batch pos"]
    """Of the true next token, 1 the likeliest; equal scores share the mean of their ranks."""
    next_logit: Float[Tensor, "depth batch pos"]
    copy_rank: Float[Tensor, "depth batch pos"]
    """Of the token that stands here."""
    copy_logit: Float[Tensor, "depth batch pos"]
    top: Int[Tensor, "depth batch pos"]
    """The likeliest word; -1 where all are equal."""
    settled: Int[Tensor, "batch pos"]
    """The depth from which on the likeliest word is that of the output; depths if none is."""


def lens(
    trace: WordTrace, head: Head, targets: Int[Tensor, "batch pos"], view: View | None = None
) -> Lens:
    """Read every state.

    Args:
        trace: Of `word_trace.trace`.
        head: The model's.
        targets: int64, the token after each; where negative, `next_rank` means nothing.
        view: One of `views`; None: the head's own.
    """
    view, output = view or head.read, trace.logits
    first = (trace.start, trace.start)
    with torch.no_grad():
        rows = [
            _figures(view(state, start), head, output, trace.tokens, targets)
            for state, start in (first, *((state, trace.carried) for state in trace.states))
        ]
    columns = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    agrees = columns["top"] == output.argmax(-1)
    still = agrees.flip(0).long().cumprod(0).sum(0)  # depths that agree up to the end
    return Lens(**columns, settled=len(agrees) - still)


def _figures(
    read: Tensor, head: Head, output: Tensor, tokens: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    """The columns of `Lens` but for the last, of one depth."""
    logits = head(read)
    log_p = logits.log_softmax(-1)
    level = logits.amax(-1) == logits.amin(-1)
    next_rank, next_logit = _standing(logits, targets.clamp(min=0))
    copy_rank, copy_logit = _standing(logits, tokens)
    return {
        "size": read.float().square().mean(-1).sqrt(),
        "entropy": -(log_p.exp() * log_p).sum(-1),
        "kl": kl(logits, output),
        "next_rank": next_rank,
        "next_logit": next_logit,
        "copy_rank": copy_rank,
        "copy_logit": copy_logit,
        "top": logits.argmax(-1).masked_fill(level, -1),
    }


def _standing(logits: Tensor, word: Tensor) -> tuple[Tensor, Tensor]:
    """Rank and score of one word a position."""
    own = logits.gather(-1, word[..., None])
    above, equal = (logits > own).sum(-1), (logits == own).sum(-1)
    return above + (equal + 1) / 2, own[..., 0]


def depth_rows(
    lenses: Sequence[Lens], scored: Sequence[Bool[Tensor, "_ _"]]
) -> list[dict[str, Any]]:
    """A row for each depth; ranks are medians, all else means, over the scored positions."""

    def at(name: str) -> Tensor:
        parts = [getattr(each, name)[..., mask] for each, mask in zip(lenses, scored, strict=True)]
        return torch.cat(parts, -1).double()

    settled = at("settled")
    columns = {
        "size": at("size").mean(1),
        "entropy": at("entropy").mean(1),
        "kl": at("kl").mean(1),
        "next_rank": at("next_rank").median(1).values,
        "next_logit": at("next_logit").mean(1),
        "copy_rank": at("copy_rank").median(1).values,
        "copy_logit": at("copy_logit").mean(1),
        "settled": torch.stack([
            (settled <= depth).double().mean() for depth in range(len(lenses[0].kl))
        ]),
    }  # fmt: skip
    depths = range(len(lenses[0].kl))
    return [
        {"depth": d, **{name: float(column[d]) for name, column in columns.items()}} for d in depths
    ]
