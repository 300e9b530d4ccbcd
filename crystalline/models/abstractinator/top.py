"""The language model over the topmost segments."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from crystalline.layers.attention_form import AttentionForm
from crystalline.layers.position_cache import PositionCache
from crystalline.layers.precision import at_least_fp32
from crystalline.models.abstractinator.blocks import Stack
from crystalline.models.abstractinator.code_head import BookShape, CodeHead, mean_where
from crystalline.models.abstractinator.options import TopOptions
from crystalline.models.abstractinator.symbols import Sight, Symbols, VectorInput


class CodeSequenceTransformer(nn.Module):
    """A causal transformer over the vectors of finished segments: row s knows segments before s.

    Args:
        options: Sizes.
        d_input: Width of the vectors, and of what it says.
        length: Symbols that there may be.
        book: Shape of the codes that it foretells; None: it foretells none.
        regresses: Whether it foretells vectors as well.
        attention: Form and backend.
        dropout: On its input and on what blocks write.
    """

    def __init__(
        self,
        options: TopOptions,
        d_input: int,
        length: int,
        book: BookShape | None,
        regresses: bool,
        attention: AttentionForm,
        dropout: float,
    ) -> None:
        super().__init__()
        d_model = options.d_model
        self.input = VectorInput(d_input, d_model)
        self.dropout = nn.Dropout(dropout)
        self.stack = Stack(
            options.num_layers, d_model, options.num_heads, length, attention, dropout
        )
        self.norm = nn.LayerNorm(d_model, bias=False)
        self.out = nn.Linear(d_model, d_input, bias=False)
        self.code_head = None if book is None else CodeHead(d_input, book)
        self.vector_head = nn.Linear(d_input, d_input) if regresses else None

    def forward(
        self, symbols: Symbols, sight: Sight, caches: list[PositionCache] | None = None
    ) -> Float[Tensor, "batch pos d_input"]:
        """What is to be said of the segment after each symbol."""
        x = self.dropout(self.input(symbols))
        return self.out(self.norm(self.stack(x, sight.past(None), sight.positions, caches)))

    def regression(
        self, said: Float[Tensor, "batch pos d_input"], symbols: Symbols
    ) -> Float[Tensor, ""]:
        """Squared error of the next segment's vector, the mean over channels and segments.

        No gradient reaches the vectors that are foretold: they would shrink to be easy.
        """
        assert self.vector_head is not None
        assert symbols.vectors is not None
        foretold = at_least_fp32(self.vector_head(said[:, :-1]))
        error = (foretold - symbols.vectors[:, 1:].detach()).square().mean(-1)
        return mean_where(error, symbols.real[:, 1:])
