"""A language model without training, codebook or family, for tests of what reads models."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from crystalline.contract import Choice, Codes, Edits, LanguageModel, ModelOutput


class Leaning(nn.Module):
    """Two levels of codes: which of K fixed directions a vector leans to."""

    def __init__(self, d_model: int, codebook_size: int) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.register_buffer("directions", torch.randn(2, codebook_size, d_model))

    def forward(self, x: Tensor, banned: Tensor | None = None) -> Tensor:
        scores = torch.einsum("bsd,lkd->bslk", x, self.directions)
        return (scores if banned is None else scores.masked_fill(banned, -torch.inf)).argmax(-1)


class RunningMean(LanguageModel):
    """Each token's vector plus the mean of all so far; causal, cacheable, with four discrete sites.

    Sites: "choice" (two levels), "pairs" (two levels, span 2), "top" (three codes of one book) and
    "segments" (one level; a segment ends after every token divisible by 3; the rest is padding).
    """

    def __init__(
        self,
        vocab_size: int = 257,
        context_length: int = 16,
        d_model: int = 8,
        codebook_size: int = 6,
        seed: int = 0,
    ) -> None:
        super().__init__(vocab_size, context_length)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(vocab_size, d_model)
            self.choice = Leaning(d_model, codebook_size)
            self.pairs = Leaning(d_model, codebook_size)
            self.dropout = nn.Dropout(0.5)

    def forward(
        self,
        tokens: Tensor,
        *,
        codes: bool = False,
        edits: Edits | None = None,
        cache: dict[str, Tensor] | None = None,
    ) -> ModelOutput:
        embedded = self.embedding(tokens)
        cache = self.init_cache(len(tokens)) if cache is None else cache
        count = cache["count"] + torch.arange(1, tokens.shape[1] + 1)
        if count[-1] > self.context_length:
            raise ValueError("longer than the context")
        sums = cache["sum"] + embedded.cumsum(1)
        cache["count"], cache["sum"] = count[-1], sums[:, -1:].detach()
        mean = sums / count[:, None]
        x = self.dropout(embedded + mean)
        logits = x @ self.embedding.weight.T / x.shape[-1]  # flat enough to draw from
        return ModelOutput(logits, codes=self._codes(tokens, x, edits) if codes else {})

    def _codes(self, tokens: Tensor, x: Tensor, edits: Edits | None) -> dict[str, Codes]:
        size = self.choice.codebook_size
        indices = self.choice(x)
        if edits and "choice" in edits:
            where = torch.arange(tokens.shape[1])
            indices = edits["choice"](Choice(indices, where, partial(self.choice, x)))
        top = (x @ self.choice.directions[0].T).topk(3).indices
        found = {
            "choice": Codes(indices, size),
            "top": Codes(top, size, shared=True),
            "segments": self._segments(tokens, indices[..., :1]),
        }
        if tokens.shape[1] > 1:
            found["pairs"] = Codes(self.pairs(x[:, 1::2]), size, span=2)
        return found

    def _segments(self, tokens: Tensor, indices: Tensor) -> Codes:
        last = tokens % 3 == 0
        mask = torch.arange(tokens.shape[1]) < last.sum(1, keepdim=True)
        order = (~last).long().argsort(dim=1, stable=True)  # ends first, in order
        gathered = indices.gather(1, order[..., None])
        return Codes(gathered, self.choice.codebook_size, mask=mask, ends=order * mask)

    def init_cache(self, batch_size: int) -> dict[str, Tensor]:
        width = self.embedding.weight.shape[1]
        return {
            "count": torch.zeros((), dtype=torch.int64),
            "sum": torch.zeros(batch_size, 1, width),
        }


class Plain(RunningMean):
    """The same model with nothing discrete in it."""

    def _codes(self, tokens: Tensor, x: Tensor, edits: Edits | None) -> dict[str, Codes]:
        return {}
