"""One level: a compressor on the way up, an expander on the way down."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crystalline.layers.attention_form import AttentionForm
from crystalline.layers.freezable import Freezable
from crystalline.layers.position_cache import PositionCache
from crystalline.models.abstractinator.cache import LevelCache
from crystalline.models.abstractinator.code_head import BookShape
from crystalline.models.abstractinator.compressor import SegmentCompressor, Segments
from crystalline.models.abstractinator.content import ContentHead
from crystalline.models.abstractinator.expander import DecoderOnlyExpanderRVQ
from crystalline.models.abstractinator.options import (
    EncoderOptions,
    EntropyOptions,
    ExpanderOptions,
    Segmentation,
)
from crystalline.models.abstractinator.symbols import Sight, Symbols
from crystalline.quantizers.codebook import Codebook


class Abstractinator(Freezable):
    """A level of the pyramid.

    Args:
        vocab_size: Ids, on the first level; None above.
        d_model: Width.
        num_heads: Heads.
        length: Symbols that a sequence may have.
        quantizer: Builds the quantizer from `d_model=`; None: segments stay continuous.
        book: Shape of the codes of the level below; None if there are none.
        foretells_codes: Whether the expander has a head for the codes below.
        entropy: Of the entropy model.
        segmentation: The rule.
        encoder: Of encoder and pooling.
        expander: Of the expander.
        attention: Form and backend.
        dropout: On embeddings and on what blocks write.
        content: Whether segments are asked for their symbols; those without a name never are.
    """

    def __init__(
        self,
        vocab_size: int | None,
        d_model: int,
        num_heads: int,
        length: int,
        quantizer: Callable[..., Codebook] | None,
        book: BookShape | None,
        foretells_codes: bool,
        entropy: EntropyOptions,
        segmentation: Segmentation,
        encoder: EncoderOptions,
        expander: ExpanderOptions,
        attention: AttentionForm,
        dropout: float,
        *,
        content: bool,
    ) -> None:
        super().__init__()
        self.length = length
        self.compressor = SegmentCompressor(
            vocab_size, d_model, num_heads, length, quantizer, book,
            entropy, segmentation, encoder, attention, dropout,
        )  # fmt: skip
        self.expander = DecoderOnlyExpanderRVQ(
            vocab_size, d_model, num_heads, length, book if foretells_codes else None,
            expander, attention, dropout,
        )  # fmt: skip
        named = vocab_size is not None or book is not None
        self.content = ContentHead(vocab_size, d_model, book) if content and named else None

    @property
    def max_segments(self) -> int:
        """Segments that a sequence may have."""
        return self.compressor.segmenter.max_segments

    def above(self, segments: Segments, cache: LevelCache | None, first: bool) -> Symbols:
        """The finished segments as symbols of the level above.

        Symbol 0 is a separator, and symbol s + 1 stands for segment s: another separator if a
        document begins after it, since nothing may be foretold from one document to the next.

        Args:
            segments: New ones.
            cache: Of earlier ones.
            first: Whether symbol 0 belongs to them.
        """
        real = segments.finished
        separator = segments.separator & real
        positions = torch.where(real, segments.numbers + 1, self.max_segments + 1)
        ends, vectors = segments.ends, segments.vectors
        codes = None if segments.chosen is None else segments.chosen.indices
        if first:
            real, separator = _behind(True, real), _behind(True, separator)
            positions, ends, vectors = _behind(0, positions), _behind(0, ends), _behind(0, vectors)
            codes = None if codes is None else _behind(0, codes)
        document = separator.cumsum(1)
        if cache is not None:
            document = document + cache.documents[:, None]
            cache.documents = document[:, -1]
        return Symbols(positions, real, separator, document, ends, None, vectors, codes)

    def expand(
        self,
        symbols: Symbols,
        sight: Sight,
        segments: Segments,
        contexts: Float[Tensor, "batch context d_model"],
        document: Int[Tensor, "batch context"],
        cache: LevelCache | None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """What the expander says after each symbol; see `DecoderOnlyExpanderRVQ`."""
        vectors, caches = segments.vectors, None
        if cache is not None:
            where = torch.where(segments.finished, segments.numbers, self.max_segments)
            vectors = cache.segments.write("vectors", where, vectors)
            caches = cache.expander
        return self.expander(symbols, sight, segments.cut, contexts, vectors, document, caches)

    def init_cache(self, batch: int, device: torch.device) -> LevelCache:
        model = self.compressor.entropy_model
        return LevelCache(
            PositionCache(batch, self.length),
            PositionCache(batch, self.max_segments),
            PositionCache(batch, self.max_segments + 1),
            self.compressor.segmenter.init_state(batch, device),
            torch.zeros(batch, dtype=torch.int64, device=device),
            [] if model is None else model.stack.init_caches(batch),
            self.compressor.encoder.init_caches(batch),
            self.expander.stack.init_caches(batch),
        )


def _behind(first: float, rest: Tensor) -> Tensor:
    """`rest` (batch slot ...) with one slot more in front, filled with `first`."""
    return torch.cat([torch.full_like(rest[:, :1], first), rest], dim=1)
