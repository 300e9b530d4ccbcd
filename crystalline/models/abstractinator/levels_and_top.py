"""What reads and speaks: levels of segments, a language model on top, and the way back to bytes."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.compression.description import Description
from crystalline.contract import Edits, LanguageModel, ModelOutput, Reconstruction
from crystalline.layers.parts import Parts
from crystalline.layers.position_cache import PositionCache
from crystalline.models.abstractinator.blocks import Block
from crystalline.models.abstractinator.cache import PyramidCache
from crystalline.models.abstractinator.climb import Climb, codes_of
from crystalline.models.abstractinator.code_head import mean_where
from crystalline.models.abstractinator.descent import Costs, code_costs, descend
from crystalline.models.abstractinator.level import Abstractinator
from crystalline.models.abstractinator.symbols import Sight, Symbols, TokenInput, read_tokens
from crystalline.models.abstractinator.top import CodeSequenceTransformer

Mode = Literal["latent_conditioning", "discrete"]


class LevelsAndTop(LanguageModel):
    """Levels and a top at work, wherever they come from; see `AbstractinatorPyramid`.

    Args:
        vocab_size: Number of token ids.
        context_length: Longest sequence in tokens.
        levels: From the tokens up.
        top: The language model over the segments of the last one.
        mode: How expanders know what the level above says of a segment.
        document_end: Id of the token between documents, which nothing crosses; None: there is none.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        levels: Parts[Abstractinator],
        top: CodeSequenceTransformer,
        mode: Mode,
        document_end: int | None,
    ) -> None:
        super().__init__(vocab_size, context_length)
        self.mode: Mode = mode
        self.document_end = document_end
        self.levels = levels
        self.top = top

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        codes: bool = False,
        edits: Edits | None = None,
        cache: PyramidCache | None = None,
    ) -> ModelOutput:
        climbs, topmost = self.climb(self.read(tokens, cache), edits or {}, cache)
        said = self.speak(topmost, cache)
        hidden, costs = self.descend(climbs, said, topmost, cache)
        losses: dict[str, Tensor] = {}
        if self.training and cache is None:
            losses = self.losses(climbs, said, topmost, costs)
        if cache is not None:
            cache.position += tokens.shape[1]
        found = codes_of(self.levels, climbs) if codes else {}
        return ModelOutput(hidden, losses, found, self.head)

    def losses(
        self,
        climbs: list[Climb],
        said: Float[Tensor, "batch symbol d_model"] | None,
        topmost: Symbols | None,
        costs: list[Costs],
    ) -> dict[str, Float[Tensor, ""]]:
        """Auxiliary losses of a training pass: how well the top foretells the next segment.

        Args:
            climbs: The way up.
            said: What the top says.
            topmost: The symbols it says it after.
            costs: Of codes that expanders foretold on the way down.
        """
        losses: dict[str, Tensor] = {}
        if self.top.code_head is not None:
            last = len(self.levels) - 1
            losses["top_lm"] = mean_where(*code_costs(self.levels, self.top, last, said, topmost))
        if self.top.vector_head is not None:
            assert said is not None
            assert topmost is not None
            losses["top_regression"] = self.top.regression(said, topmost)
        return losses

    def read(self, tokens: Tensor, cache: PyramidCache | None) -> Symbols:
        """Tokens as symbols of the first level."""
        if cache is None:
            return read_tokens(tokens, self.document_end)
        symbols = read_tokens(tokens, self.document_end, cache.position, cache.documents)
        cache.documents = symbols.document[:, -1]
        return symbols

    def climb(
        self, symbols: Symbols, edits: Edits, cache: PyramidCache | None
    ) -> tuple[list[Climb], Symbols | None]:
        """Every level's segments, and the symbols of the top.

        With a cache it ends where no segment has been finished: nothing is new above.
        """
        climbs: list[Climb] = []
        first = cache is None or cache.position == 0
        books = None
        for index, level in enumerate(self.levels):
            part = None if cache is None else cache.levels[index]
            sight = Sight(symbols, self._documents, None if part is None else part.symbols)
            edit = edits.get(f"levels.{index}.compressor.quantizer")
            segments = level.compressor(symbols, sight, books, part, edit)
            climbs.append(Climb(symbols, sight, segments))
            symbols = level.above(segments, part, first)
            if cache is not None and not symbols.real.any():
                return climbs, None
            books = level.compressor.books
        return climbs, symbols

    def speak(
        self, topmost: Symbols | None, cache: PyramidCache | None
    ) -> Float[Tensor, "batch pos d_model"] | None:
        """What the top says before each segment of the last level."""
        if topmost is None:
            return None
        sight = Sight(topmost, self._documents, None if cache is None else cache.top_symbols)
        return self.top(topmost, sight, None if cache is None else cache.top)

    def descend(
        self,
        climbs: list[Climb],
        said: Float[Tensor, "batch symbol d_model"] | None,
        topmost: Symbols | None,
        cache: PyramidCache | None = None,
        *,
        own: bool = False,
    ) -> tuple[Float[Tensor, "batch pos d_model"], list[Costs]]:
        """See `crystalline.models.abstractinator.descent.descend`."""
        return descend(
            self.levels, self.top, climbs, said, topmost, cache,
            by_code=self.mode == "discrete", own=own,
        )  # fmt: skip

    @property
    def _documents(self) -> bool:
        return self.document_end is not None

    @property
    def head(self) -> Float[Tensor, "vocab d_model"]:
        """Weights of the scores: the first expander's embedding."""
        lowest = self.levels[0].expander.input
        assert isinstance(lowest, TokenInput)
        return lowest.embedding.weight

    def description(self) -> Description:
        from crystalline.models.abstractinator.two_part import TwoPart

        return TwoPart(self) if self.mode == "discrete" else super().description()

    def reconstruct(self, tokens: Int[Tensor, "batch pos"]) -> Reconstruction | None:
        if self.mode != "discrete":
            return None
        climbs, topmost = self.climb(self.read(tokens, None), {}, None)
        said = self.speak(topmost, None)
        hidden, costs = self.descend(climbs, said, topmost, own=True)
        costs.append(code_costs(self.levels, self.top, len(self.levels) - 1, said, topmost))
        nats = torch.stack([(cost.nats * cost.real).sum(1) for cost in costs]).sum(0)
        output = ModelOutput(hidden, {}, codes_of(self.levels, climbs), self.head)
        return Reconstruction(output, nats)

    def alike_parts(self) -> list[nn.Module]:
        return [part for part in self.modules() if isinstance(part, Block)]

    def init_cache(self, batch_size: int) -> Any:
        device = self.top.out.weight.device
        length = self.top.stack.length
        return PyramidCache(
            [level.init_cache(batch_size, device) for level in self.levels],
            PositionCache(batch_size, length),
            self.top.stack.init_caches(batch_size),
            torch.zeros(batch_size, dtype=torch.int64, device=device),
        )
