"""What a segment's vector says of the segment by itself."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crystalline.layers.precision import at_least_fp32
from crystalline.models.abstractinator.code_head import Books, BookShape, CodeHead, mean_where
from crystalline.models.abstractinator.compressor import Segments
from crystalline.models.abstractinator.segmenter import PLACES
from crystalline.models.abstractinator.symbols import Symbols


class ContentHead(nn.Module):
    """Names every symbol of a finished segment from the segment's vector and the symbol's place.

    It sees no other symbol, so its loss falls only if different segments have different vectors.
    What is foretold from vectors asks that of them much later: a young model foretells best what is
    common to all texts, and vectors that serve it become one vector.

    Args:
        vocab_size: Ids, on the first level; None above.
        d_model: Width.
        book: Above the first level: shape of the codes below.
    """

    def __init__(self, vocab_size: int | None, d_model: int, book: BookShape | None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model, bias=False)
        self.place = nn.Embedding(PLACES, d_model)
        self.up = nn.Linear(d_model, 2 * d_model)
        self.down = nn.Linear(2 * d_model, d_model, bias=False)
        self.names = nn.Linear(d_model, vocab_size, bias=False) if vocab_size else None
        self.code_head = None if book is None else CodeHead(d_model, book)

    def forward(
        self, symbols: Symbols, segments: Segments, books: Books | None
    ) -> Float[Tensor, ""]:
        """Mean nats of a symbol of a finished segment; separators above have no code to name.

        Args:
            symbols: A whole sequence.
            segments: Its segments.
            books: The codes below.
        """
        segment = segments.cut.segment.clamp(max=segments.vectors.shape[1] - 1)
        mine = segments.vectors.gather(
            1, segment[..., None].expand(-1, -1, self.norm.weight.numel())
        )
        place = self.place(segments.cut.place.clamp(max=PLACES - 1))
        h = self.down(F.gelu(self.up(self.norm(mine) + place)))
        real = symbols.real & segments.finished.gather(1, segment)
        if self.names is not None:
            assert symbols.tokens is not None
            scores = at_least_fp32(self.names(h))
            nats = F.cross_entropy(scores.mT, symbols.tokens, reduction="none")
        else:
            assert self.code_head is not None
            assert books is not None
            assert symbols.codes is not None
            nats = self.code_head.nats(h, books, symbols.codes)
            real = real & ~symbols.separator
        return mean_where(nats, real)
