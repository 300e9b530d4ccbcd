"""A text position by position: what every state would say, and what every part pushes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from crystalline.interpret.word_lens import lens
from crystalline.interpret.word_trace import trace
from crystalline.interpret.word_updates import REMAINDER, START, pushes
from crystalline.models.vocab_space.model import VocabSpace


def text_rows(
    model: VocabSpace, tokens: Int[Tensor, "1 pos"], top: int = 5
) -> list[dict[str, Any]]:
    """A row for each token.

    Each has the token, the next one (-1 at the end), `states`: of each depth its likeliest words
    with their probabilities, entropy, divergence from the output and ranks; and `parts`: the words
    that each part pushes up and down most, with its share of the next token's score.
    """
    top = min(top, model.vocab_size)
    traced = trace(model, tokens)
    targets = F.pad(tokens[:, 1:], (0, 1), value=-1)
    read, pushed = lens(traced, model.head, targets), pushes(traced, model.head, targets, top)
    with torch.no_grad():
        shares = torch.stack([
            model.head(model.head.read(state, traced.start)).softmax(-1)
            for state in (traced.start, *traced.states)
        ])  # fmt: skip
    best = shares.topk(top)
    words = best.indices.masked_fill((read.top < 0)[..., None], -1)  # all alike: none is best
    rows = []
    for at in range(tokens.shape[1]):
        known = at + 1 < tokens.shape[1]
        rows.append({
            "token": int(tokens[0, at]),
            "next": int(targets[0, at]),
            "settled": int(read.settled[0, at]),
            "states": [
                {
                    "top": words[depth, 0, at].tolist(),
                    "probability": best.values[depth, 0, at].tolist(),
                    "entropy": float(read.entropy[depth, 0, at]),
                    "kl": float(read.kl[depth, 0, at]),
                    "next_rank": float(read.next_rank[depth, 0, at]) if known else None,
                    "copy_rank": float(read.copy_rank[depth, 0, at]),
                }
                for depth in range(len(shares))
            ],
            "parts": {
                name: {
                    "up": push.up[0, at].tolist(),
                    "down": push.down[0, at].tolist(),
                    "next_push": float(push.next_push[0, at]) if known else None,
                }
                for name, push in pushed.items()
                if name not in (START, REMAINDER)
            },
        })  # fmt: skip
    return rows
