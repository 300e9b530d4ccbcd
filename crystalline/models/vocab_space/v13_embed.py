"""v13: v12 after a learned start, the control of the family (spec 3.13)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from crystalline.models.vocab_space.blocks import State, normal, rms
from crystalline.models.vocab_space.readable import WordMap
from crystalline.models.vocab_space.v12_sparse import Sparse

STARTS = ("learned", "frozen", "skip")


class Embed(Sparse):
    """x_0 = rms(E[token] U), then the steps of `Sparse`.

    E U is a learned table of bigrams of rank d, and nothing in it copies the current word: the
    head should read the state itself, since less its start it would lack that table.

    Args:
        vocab_size: V.
        context_length: Longest sequence in tokens.
        d_embed: d, width between E and U.
        start: "learned"; "frozen": E and U stay as they are drawn; "skip": they learn, and x_0 =
            rms(rms(E[token] U) + the one-hot vector of `VocabSpace`).
        options: Of `Sparse`.

    Raises:
        ValueError: If there is no such start.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        d_embed: int = 128,
        start: str = "learned",
        **options: Any,
    ) -> None:
        if start not in STARTS:
            raise ValueError(f"model.start must be {' or '.join(STARTS)}, got {start!r}")
        super().__init__(vocab_size, context_length, **options)
        learns = start != "frozen"
        self.embedding = normal(vocab_size, d_embed).requires_grad_(learns)
        self.expansion = normal(d_embed, vocab_size).requires_grad_(learns)
        self.skips = start == "skip"

    def start(self, tokens: Int[Tensor, "batch pos"]) -> State:
        x = rms((F.embedding(tokens, self.embedding) @ self.expansion).float())
        return (rms(x + super().start(tokens)) if self.skips else x).to(self.dtype)

    def word_maps(self) -> dict[str, WordMap]:
        """The table of bigrams, and those of the steps."""
        return {"start": WordMap(self.embedding, self.expansion)} | super().word_maps()
