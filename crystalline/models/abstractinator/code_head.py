"""The chances of the next code, for quantizers of one level or several."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from crystalline.layers.precision import at_least_fp32
from crystalline.quantizers.codebook import Codebook

Books = Float[Tensor, "levels codebook_size target_dim"]


class CodeHead(nn.Module):
    """r_0 = W norm(h);  scores of level l = C_l r_l / sqrt(d);  r_{l+1} = r_l - code of level l.

    Each level is asked given the codes of the levels before it, as the residual quantizer chose
    them. The books are read, never trained, by this head.
    """

    def __init__(self, d_model: int, target_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model, bias=False)
        self.query = nn.Linear(d_model, target_dim, bias=False)

    def scores(
        self,
        h: Float[Tensor, "batch pos d_model"],
        books: Books,
        codes: Int[Tensor, "batch pos levels"] | None = None,
    ) -> Iterator[Float[Tensor, "batch pos codebook_size"]]:
        """Of each level in turn, in fp32.

        Args:
            h: States.
            books: The quantizer's `targets`.
            codes: What was chosen; None: each level's best goes on to the next.
        """
        residual = at_least_fp32(self.query(self.norm(h)))
        for level, book in enumerate(books.detach()):
            scores = self._against(residual, book)
            yield scores
            chosen = scores.argmax(-1) if codes is None else codes[..., level]
            residual = residual - F.embedding(chosen, book)

    def _against(self, residual: Tensor, book: Tensor) -> Float[Tensor, "batch pos codebook_size"]:
        with torch.autocast(residual.device.type, enabled=False):
            return residual @ book.T / math.sqrt(book.shape[-1])

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
        self, h: Float[Tensor, "batch pos d_model"], quantizer: Codebook, *, draw: bool = False
    ) -> Float[Tensor, "batch pos codebook_dim"]:
        """The next code as a vector, summed over levels: its mean, or with `draw` one by chance."""
        residual = at_least_fp32(self.query(self.norm(h)))
        parts = []
        for target, book in zip(quantizer.targets, quantizer.codes.detach(), strict=True):
            chances = self._against(residual, target).softmax(-1)
            best = chances.argmax(-1)
            if draw:
                best = torch.multinomial(chances.flatten(0, 1), 1).view_as(best)
            parts.append(F.embedding(best, book) if draw else chances @ book)
            residual = residual - F.embedding(best, target)
        return torch.stack(parts).sum(0)

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
