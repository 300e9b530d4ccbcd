"""The small model of a level's next symbol, whose doubt decides where segments end."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crystalline.layers.attention_form import AttentionForm
from crystalline.layers.freezable import Freezable
from crystalline.layers.position_cache import PositionCache
from crystalline.layers.precision import at_least_fp32
from crystalline.models.abstractinator.blocks import Stack
from crystalline.models.abstractinator.code_head import (
    Books,
    BookShape,
    CodeHead,
    entropy,
    mean_where,
)
from crystalline.models.abstractinator.options import EntropyOptions
from crystalline.models.abstractinator.symbols import Sight, Symbols, TokenInput, VectorInput

LOG_VARIANCE = 8.0
"""Largest absolute log-variance of the Gaussian head."""


class EntropyModel(Freezable):
    """Causal blocks with a sliding window, and a head for the next symbol.

    It shares nothing with the other parts: segments depend on it alone, and it learns by its own
    loss alone.

    Args:
        options: Its sizes and head.
        vocab_size: Ids, on the first level; None above.
        d_input: Width of the vectors it reads above the first level.
        book: Shape of the codes below; None if there are none.
        length: Positions that there may be.
        attention: Form and backend.
        dropout: On what the blocks write.

    Raises:
        ValueError: If there is nothing for a categorical head to name.
    """

    targets: Float[Tensor, "vocab channel"] | None
    """What a Gaussian head foretells of tokens: fixed random vectors."""

    def __init__(
        self,
        options: EntropyOptions,
        vocab_size: int | None,
        d_input: int,
        book: BookShape | None,
        length: int,
        attention: AttentionForm,
        dropout: float,
    ) -> None:
        super().__init__()
        d_model = options.d_model
        self.options = options
        self.input = (
            VectorInput(d_input, d_model, detach=True)
            if vocab_size is None
            else TokenInput(vocab_size, d_model)
        )
        self.stack = Stack(
            options.num_layers, d_model, options.num_heads, length, attention, dropout
        )
        self.norm = nn.LayerNorm(d_model, bias=False)
        self.gaussian = None
        self.code_head = None
        self.register_buffer("targets", None)
        if options.head == "gaussian":
            width = d_input if vocab_size is None else d_model
            self.gaussian = nn.Linear(d_model, 2 * width)
            # Targets that do not move: a vector that may learn to be foretold becomes constant.
            fixed = None if vocab_size is None else torch.randn(vocab_size, width)
            self.register_buffer("targets", fixed)
        elif vocab_size is None:
            if book is None:
                raise ValueError(
                    "model.entropy.head must be gaussian for levels above vectors that are not "
                    "quantized"
                )
            self.code_head = CodeHead(d_model, book)

    def forward(
        self, symbols: Symbols, sight: Sight, caches: list[PositionCache] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """The state from which the symbol after each position is foretold."""
        past = sight.past(self.options.window)
        x = self.stack(self.input(symbols), past, sight.positions, caches)
        return self.norm(x)

    def bits(
        self, h: Float[Tensor, "batch pos d_model"], books: Books | None
    ) -> Float[Tensor, "batch pos"]:
        """H_t: entropy of the symbol after position t, as `EntropyOptions.head` says; fp32."""
        if self.gaussian is not None:
            _, log_variance = self._moments(h)
            nats = 0.5 * (math.log(2 * math.pi * math.e) + log_variance).mean(-1)
        elif self.code_head is not None:
            assert books is not None
            nats = self.code_head.entropy(h, books)
        else:
            nats = entropy(self._scores(h))
        return nats / math.log(2)

    def loss(
        self, h: Float[Tensor, "batch pos d_model"], symbols: Symbols, books: Books | None
    ) -> Float[Tensor, ""]:
        """Mean nats of the next symbol (a channel, if Gaussian)."""
        h, real = h[:, :-1], symbols.real[:, 1:]
        if self.gaussian is not None:
            mean, log_variance = self._moments(h)
            error = (self._target(symbols)[:, 1:] - mean).square() * (-log_variance).exp()
            nats = 0.5 * (error + log_variance + math.log(2 * math.pi)).mean(-1)
        elif self.code_head is not None:
            assert books is not None
            assert symbols.codes is not None
            nats = self.code_head.nats(h, books, symbols.codes[:, 1:])
        else:
            assert symbols.tokens is not None
            scores = at_least_fp32(self._scores(h))
            nats = F.cross_entropy(scores.mT, symbols.tokens[:, 1:], reduction="none")
        return mean_where(nats, real)

    def _scores(self, h: Tensor) -> Float[Tensor, "batch pos vocab"]:
        assert isinstance(self.input, TokenInput)
        with torch.autocast(h.device.type, enabled=False):
            weight = self.input.embedding.weight
            return F.linear(h.to(weight.dtype), weight)

    def _moments(self, h: Tensor) -> tuple[Tensor, Tensor]:
        assert self.gaussian is not None
        mean, log_variance = at_least_fp32(self.gaussian(h)).chunk(2, dim=-1)
        return mean, log_variance.clamp(-LOG_VARIANCE, LOG_VARIANCE)

    def _target(self, symbols: Symbols) -> Float[Tensor, "batch pos channel"]:
        if symbols.tokens is not None:
            assert self.targets is not None
            return F.embedding(symbols.tokens, self.targets)
        assert symbols.vectors is not None
        vectors = at_least_fp32(symbols.vectors.detach())
        return F.layer_norm(vectors, vectors.shape[-1:])
