"""From symbols to segments: cut where they surprise, encode, pool, quantize."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from crystalline.contract import Edit
from crystalline.layers.attention_form import AttentionForm
from crystalline.models.abstractinator.blocks import Stack
from crystalline.models.abstractinator.cache import LevelCache
from crystalline.models.abstractinator.code_head import Books, BookShape
from crystalline.models.abstractinator.entropy_model import EntropyModel
from crystalline.models.abstractinator.options import (
    EncoderOptions,
    EntropyOptions,
    Segmentation,
)
from crystalline.models.abstractinator.pooling import LearnedQueryAttention
from crystalline.models.abstractinator.segmenter import Cut, Segmenter
from crystalline.models.abstractinator.symbols import Sight, Symbols, TokenInput, VectorInput
from crystalline.quantizers.codebook import Codebook, QuantizerOutput


@dataclass(frozen=True)
class Segments:
    """The segments that end in a stretch of symbols, and the one that is open; then padding."""

    cut: Cut
    numbers: Int[Tensor, "batch slot"]
    """Which segment of its sequence each slot is."""
    finished: Bool[Tensor, "batch slot"]
    vectors: Float[Tensor, "batch slot d_model"]
    """Quantized, unless nothing is."""
    separator: Bool[Tensor, "batch slot"]
    """Whether a document begins after it."""
    ends: Int[Tensor, "batch slot"]
    """Last token that it has seen; of padding: the last one there is."""
    chosen: QuantizerOutput | None
    entropy_loss: Float[Tensor, ""] | None


class SegmentCompressor(nn.Module):
    """One level's way up.

    Args:
        vocab_size: Ids, on the first level; None above.
        d_model: Width.
        num_heads: Heads of encoder and pooling.
        length: Symbols that a sequence may have.
        quantizer: Builds the quantizer from `d_model=`; None: segments stay continuous.
        book: Shape of the codes of the level below; None if there are none.
        entropy: Of the entropy model.
        segmentation: The rule.
        encoder: Of encoder and pooling.
        attention: Form and backend.
        dropout: On embeddings and on what blocks write.
    """

    def __init__(
        self,
        vocab_size: int | None,
        d_model: int,
        num_heads: int,
        length: int,
        quantizer: Callable[..., Codebook] | None,
        book: BookShape | None,
        entropy: EntropyOptions,
        segmentation: Segmentation,
        encoder: EncoderOptions,
        attention: AttentionForm,
        dropout: float,
    ) -> None:
        super().__init__()
        self.options = encoder
        self.d_model = d_model
        self.entropy_model = (
            EntropyModel(entropy, vocab_size, d_model, book, length, attention, dropout)
            if segmentation.reads_entropy
            else None
        )
        self.segmenter = Segmenter(segmentation, length, vocab_size)
        self.input = (
            VectorInput(d_model, d_model) if vocab_size is None else TokenInput(vocab_size, d_model)
        )
        self.dropout = nn.Dropout(dropout)
        self.encoder = Stack(encoder.num_layers, d_model, num_heads, length, attention, dropout)
        self.pool = LearnedQueryAttention(
            d_model, num_heads, encoder.num_queries, attention.backend
        )
        self.quantizer = None if quantizer is None else quantizer(d_model=d_model)

    @property
    def book_shape(self) -> BookShape | None:
        """Of the codes of the quantizer."""
        book = self.quantizer
        if book is None:
            return None
        return book.num_codebooks, book.codebook_size, book.codebook_dim

    @property
    def books(self) -> Books | None:
        """The codes of the quantizer, as targets: no gradient reaches them."""
        return None if self.quantizer is None else self.quantizer.codes.detach()

    def forward(
        self,
        symbols: Symbols,
        sight: Sight,
        books: Books | None,
        cache: LevelCache | None = None,
        edit: Edit | None = None,
    ) -> Segments:
        """Segments of new symbols.

        Args:
            symbols: New positions.
            sight: Who sees whom among them.
            books: Codes of the level below, which the entropy model foretells.
            cache: Of earlier positions.
            edit: Override of the chosen codes.
        """
        bits, loss = None, None
        if self.entropy_model is not None:
            h = self.entropy_model(symbols, sight, None if cache is None else cache.entropy)
            bits = self.entropy_model.bits(h.detach(), books).detach()
            if self.entropy_model.training:
                loss = self.entropy_model.loss(h, symbols, books)
        batch, length = symbols.positions.shape
        state = (
            self.segmenter.init_state(batch, symbols.positions.device)
            if cache is None
            else cache.segmenter
        )
        cut = self.segmenter(symbols, bits, state)
        segment = torch.where(symbols.real, cut.segment, -1)
        labels, segment = segment, sight.written("segment", segment, empty=-1)
        local = (labels, segment) if self.options.segment_local else None
        hidden = self.encoder(
            self.dropout(self.input(symbols)),
            sight.past(self.options.window, local),
            sight.positions,
            None if cache is None else cache.encoder,
        )
        hidden = sight.written("hidden", hidden)

        slots = min(length, self.segmenter.max_segments)
        numbers = cut.first[:, None] + torch.arange(slots, device=segment.device)
        finished = numbers < state.finished[:, None]
        vectors = self.pool(hidden, segment, numbers)
        chosen = self._quantize(vectors, finished, cut.first, edit)
        if chosen is not None:
            vectors = chosen.quantized
        inside = numbers[..., None] == segment[:, None, :]
        separator = sight.written("separator", symbols.separator)
        seen = torch.where(inside, sight.written("ends", symbols.ends)[:, None, :], -1).amax(-1)
        last = symbols.ends.amax(1, keepdim=True)
        return Segments(
            cut,
            numbers,
            finished,
            vectors * finished[..., None],
            (inside & separator[:, None, :]).any(-1),
            torch.where(finished, seen, last),
            chosen,
            loss,
        )

    def _quantize(
        self,
        vectors: Tensor,
        finished: Bool[Tensor, "batch slot"],
        first: Int[Tensor, " batch"],
        edit: Edit | None,
    ) -> QuantizerOutput | None:
        if self.quantizer is None:
            return None
        if edit is None:
            return self.quantizer(vectors, None, None, finished)
        slots = torch.arange(vectors.shape[1], device=vectors.device)
        if not first.any():
            return self.quantizer(vectors, edit, slots)
        rows = [  # sequences differ in how far they are
            self.quantizer(row[None], edit, start + slots)
            for row, start in zip(vectors, first, strict=True)
        ]
        return QuantizerOutput(
            torch.cat([row.quantized for row in rows]),
            torch.cat([row.indices for row in rows]),
            rows[0].losses,
        )
