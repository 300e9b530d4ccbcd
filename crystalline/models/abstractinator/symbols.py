"""What a level reads: a stretch of its sequence, bytes below and codes above."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from crystalline.layers import masks
from crystalline.layers.masks import Mask
from crystalline.layers.position_cache import PositionCache


@dataclass(frozen=True)
class Symbols:
    """New positions of a level, the same number in every sequence; real ones come first."""

    positions: Int[Tensor, "batch pos"]
    """int64; of padding: the length that the level's sequence may have."""
    real: Bool[Tensor, "batch pos"]
    separator: Bool[Tensor, "batch pos"]
    """Where a document begins: at the token between documents; above, at what stands for it."""
    document: Int[Tensor, "batch pos"]
    """Separators up to and including each position."""
    ends: Int[Tensor, "batch pos"]
    """Last token that each symbol has seen."""
    tokens: Int[Tensor, "batch pos"] | None = None
    """On the first level: ids."""
    vectors: Float[Tensor, "batch pos d_model"] | None = None
    """Above: the vectors of the segments below; a level's first position is a separator."""
    codes: Int[Tensor, "batch pos levels"] | None = None
    """Above, if quantized: their codes."""


def read_tokens(
    tokens: Int[Tensor, "batch pos"],
    document_end: int | None,
    start: int = 0,
    documents: Int[Tensor, " batch"] | None = None,
) -> Symbols:
    """Tokens as symbols of the first level.

    Args:
        tokens: int64 ids.
        document_end: Id between documents.
        start: Position of the first of them.
        documents: Begun in earlier ones.
    """
    at = torch.arange(start, start + tokens.shape[1], device=tokens.device).expand_as(tokens)
    real = torch.ones_like(tokens, dtype=torch.bool)
    separator = ~real if document_end is None else tokens == document_end
    document = separator.cumsum(1)
    if documents is not None:
        document = document + documents[:, None]
    return Symbols(at, real, separator, document, at, tokens)


class TokenInput(nn.Module):
    """Embeds ids."""

    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)

    def forward(self, symbols: Symbols) -> Float[Tensor, "batch pos d_model"]:
        assert symbols.tokens is not None
        return self.embedding(symbols.tokens)


class VectorInput(nn.Module):
    """norm(W z), and a learned vector in place of separators.

    Args:
        d_input: Width of z.
        d_model: Width of the result.
        detach: Whether the gradient stops here.
    """

    def __init__(self, d_input: int, d_model: int, *, detach: bool = False) -> None:
        super().__init__()
        self.detach = detach
        self.map = nn.Linear(d_input, d_model, bias=False)
        self.norm = nn.LayerNorm(d_model, bias=False)
        self.separator = nn.Parameter(0.02 * torch.randn(d_model))

    def forward(self, symbols: Symbols) -> Float[Tensor, "batch pos d_model"]:
        assert symbols.vectors is not None
        vectors = symbols.vectors.detach() if self.detach else symbols.vectors
        mapped = self.norm(self.map(vectors))
        return torch.where(symbols.separator[..., None], self.separator.type_as(mapped), mapped)


class Sight:
    """Who sees whom among a level's symbols.

    Args:
        symbols: The queries.
        documents: Whether there are documents to keep apart.
        cache: Labels of earlier positions, if there are any; those of `symbols` join them.
    """

    def __init__(self, symbols: Symbols, documents: bool, cache: PositionCache | None) -> None:
        self.symbols = symbols
        self.documents = documents
        self.cache = cache
        self.positions = None if cache is None else symbols.positions
        """Of the queries; None for 0, 1, 2, ..."""
        self._document = self.written("document", symbols.document)
        self._masks: dict[int | None, Mask] = {}

    def written(self, name: str, values: Tensor, empty: float = 0) -> Tensor:
        """`values` of the symbols behind those of earlier positions."""
        if self.cache is None:
            return values
        return self.cache.write(name, self.symbols.positions, values, empty)

    def past(
        self,
        window: int | None,
        segment: tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch key"]] | None = None,
    ) -> Mask:
        """Keys of the same document up to the query's position.

        Args:
            window: How far back; None: any distance.
            segment: Labels of queries and keys that have to be equal as well.
        """
        if segment is None and window in self._masks:
            return self._masks[window]
        at = self.positions
        rules = [masks.causal(at) if window is None else masks.sliding_window(window, at)]
        if self.documents:
            rules.append(masks.same(self.symbols.document, self._document))
        if segment is not None:
            rules.append(masks.same(*segment))
        by_row = at is not None or len(rules) > 1
        batch, queries = self.symbols.positions.shape
        mask = Mask(
            masks.all_of(*rules),
            batch if by_row else 1,
            queries,
            self._document.shape[1],
            self.symbols.positions.device,
            complete=self.cache is None,
        )
        if segment is None:
            self._masks[window] = mask
        return mask
