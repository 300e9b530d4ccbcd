"""From segments back to symbols, one after the other."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.layers import masks
from crystalline.layers.attention_form import AttentionForm
from crystalline.layers.masks import Mask
from crystalline.layers.position_cache import PositionCache
from crystalline.models.abstractinator.blocks import Stack
from crystalline.models.abstractinator.code_head import BookShape, CodeHead
from crystalline.models.abstractinator.options import ExpanderOptions
from crystalline.models.abstractinator.segmenter import PLACES, Cut
from crystalline.models.abstractinator.symbols import Sight, Symbols, TokenInput, VectorInput


class DecoderOnlyExpanderRVQ(nn.Module):
    """Foretells each symbol from those before it and from the segments.

    The query at position t, which foretells symbol t + 1, reads by cross-attention

        the context of the segment that t + 1 belongs to: what the level above says before it, and
        the vectors of the `lookback` finished segments before that, of the same document.

    Rows of the memory are told apart by what they are and not by position: queries count symbols,
    rows count segments. How far t + 1 is into its segment is added to the input. The context is not
    added: it would first learn to be a constant, so loud that bytes are not heard for long.

    Args:
        vocab_size: Ids, on the first level; None above.
        d_model: Width.
        num_heads: Heads.
        length: Symbols that a sequence may have.
        book: Above the first level: shape of the codes that it foretells; None: it foretells
            nothing by itself.
        options: Sizes.
        attention: Form and backend.
        dropout: On embeddings and on what blocks write.
    """

    def __init__(
        self,
        vocab_size: int | None,
        d_model: int,
        num_heads: int,
        length: int,
        book: BookShape | None,
        options: ExpanderOptions,
        attention: AttentionForm,
        dropout: float,
    ) -> None:
        super().__init__()
        self.options = options
        self.input = (
            VectorInput(d_model, d_model) if vocab_size is None else TokenInput(vocab_size, d_model)
        )
        self.offset = nn.Embedding(PLACES, d_model)
        self.dropout = nn.Dropout(dropout)
        self.context_norm = nn.LayerNorm(d_model, bias=False)
        self.vector_norm = nn.LayerNorm(d_model, bias=False)
        self.kind = nn.Parameter(0.02 * torch.randn(2, d_model))
        self.stack = Stack(
            options.num_layers, d_model, num_heads, length, attention, dropout, cross=True
        )
        self.norm = nn.LayerNorm(d_model, bias=False)
        self.code_head = None if book is None else CodeHead(d_model, book)

    def forward(
        self,
        symbols: Symbols,
        sight: Sight,
        cut: Cut,
        contexts: Float[Tensor, "batch context d_model"],
        vectors: Float[Tensor, "batch segment d_model"],
        document: Int[Tensor, "batch context"],
        caches: list[PositionCache] | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The state from which the symbol after each position is foretold.

        Args:
            symbols: New positions.
            sight: Who sees whom among them.
            cut: Their segments.
            contexts: Row s: of segment s, from the segments before it; one more than `vectors`.
            vectors: Row s: of segment s.
            document: That each segment belongs to.
            caches: Of earlier positions.
        """
        offset = cut.offset.clamp(max=PLACES - 1)
        x = self.dropout(self.input(symbols) + self.offset(offset))
        told, known = self.context_norm(contexts), self.vector_norm(vectors)
        memory = torch.cat([told + self.kind[0], known + self.kind[1]], dim=1)
        mask = self._rows(sight, cut.aim, contexts.shape[1], vectors.shape[1], document)
        local = None
        if self.options.segment_local:
            local = cut.aim, sight.written("aim", cut.aim, empty=-1)
        past = sight.past(self.options.window, local)
        return self.norm(self.stack(x, past, sight.positions, caches, memory, mask))

    def _rows(
        self,
        sight: Sight,
        aim: Int[Tensor, "batch pos"],
        contexts: int,
        vectors: int,
        document: Int[Tensor, "batch context"],
    ) -> Mask:
        """One context, then the finished segments just before it."""
        finished = masks.between(aim - self.options.lookback, aim - 1, offset=contexts)
        if sight.documents:
            mine = document.gather(1, aim)
            nowhere = document.new_full((len(document), contexts), -1)
            labels = torch.cat([nowhere, document[:, :vectors]], 1)
            finished = masks.all_of(finished, masks.same(mine, labels))
        finished = masks.all_of(lambda b, h, q, k: k >= contexts, finished)
        rule = masks.any_of(masks.between(aim, aim), finished)
        batch, queries = aim.shape
        return Mask(rule, batch, queries, contexts + vectors, aim.device)
