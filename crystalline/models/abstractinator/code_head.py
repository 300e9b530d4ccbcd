"""The chances of the next code, for quantizers of one level or several."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from crystalline.layers.parts import Parts
from crystalline.layers.precision import at_least_fp32

Books = Float[Tensor, "levels codebook_size codebook_dim"]
BookShape = tuple[int, int, int]
"""Levels, codes of each, width of a code."""


class CodeHead(nn.Module):
    """Scores of level l = W_l h_l + b_l;  h_0 = norm(h);  h_{l+1} = h_l + V (code of level l).

    Each level is asked given the codes of the levels before it, as the residual quantizer chose
    them. Codes are read, never trained, by this head, and have weights of their own here: scalar
    products with the codes cannot even say how often each of them comes.
    """

    def __init__(self, d_model: int, book: BookShape) -> None:
        super().__init__()
        levels, codebook_size, codebook_dim = book
        self.norm = nn.LayerNorm(d_model, bias=False)
        self.names: Parts[nn.Linear] = Parts(
            nn.Linear(d_model, codebook_size) for _ in range(levels)
        )
        self.given = nn.Linear(codebook_dim, d_model, bias=False) if levels > 1 else None

    def scores(
        self,
        h: Float[Tensor, "batch pos d_model"],
        books: Books,
        codes: Int[Tensor, "batch pos levels"] | None = None,
    ) -> Iterator[Float[Tensor, "batch pos codebook_size"]]:
        """Of each level in turn, in fp32.

        Args:
            h: States.
            books: The quantizer's codes.
            codes: What was chosen; None: each level's best goes on to the next.
        """
        state = self.norm(h)
        for level, (names, book) in enumerate(zip(self.names, books.detach(), strict=True)):
            scores = at_least_fp32(names(state))
            yield scores
            if self.given is not None:
                chosen = scores.argmax(-1) if codes is None else codes[..., level]
                state = state + self.given(F.embedding(chosen, book))

    def nats(
        self,
        h: Float[Tensor, "batch pos d_model"],
        books: Books,
        codes: Int[Tensor, "batch pos levels"],
    ) -> Float[Tensor, "batch pos"]:
        """What each of `codes` costs, summed over levels."""
        return torch.stack(
            [
                F.cross_entropy(scores.mT, codes[..., level], reduction="none")
                for level, scores in enumerate(self.scores(h, books, codes))
            ]
        ).sum(0)

    def foretold(
        self, h: Float[Tensor, "batch pos d_model"], books: Books
    ) -> Float[Tensor, "batch pos codebook_dim"]:
        """The mean vector of the next code, summed over levels, each given the best before it."""
        parts = []
        for scores, book in zip(self.scores(h, books), books.detach(), strict=True):
            chances = scores.softmax(-1)
            with torch.autocast(h.device.type, enabled=False):
                parts.append(chances @ book.to(chances.dtype))
        return torch.stack(parts).sum(0)

    def drawn(
        self, h: Float[Tensor, "batch pos d_model"], books: Books
    ) -> Int[Tensor, "batch pos levels"]:
        """The next code by chance, each level given what was drawn before."""
        codes = torch.zeros(*h.shape[:-1], len(books), dtype=torch.int64, device=h.device)
        for level, scores in enumerate(self.scores(h, books, codes)):
            # The scores of the next level are made from what stands here by then.
            drawn = torch.multinomial(scores.softmax(-1).flatten(0, -2), 1)
            codes[..., level] = drawn.view(codes.shape[:-1])
        return codes

    def entropy(
        self, h: Float[Tensor, "batch pos d_model"], books: Books
    ) -> Float[Tensor, "batch pos"]:
        """Of the next code, in nats; of levels after the first, given the best codes before."""
        return torch.stack([entropy(scores) for scores in self.scores(h, books)]).sum(0)


def mean_where(
    values: Float[Tensor, "batch pos"], real: Bool[Tensor, "batch pos"]
) -> Float[Tensor, ""]:
    """Mean of the real values; 0 if there is none, with a gradient of 0."""
    return (values * real).sum() / real.sum().clamp(min=1)


def entropy(scores: Float[Tensor, "*axes choice"]) -> Float[Tensor, "*axes"]:
    """-sum p ln p of p = softmax(scores), in nats, in fp32."""
    logs = at_least_fp32(scores).log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)
