"""The model: levels of segments, a language model on top, and the way back to bytes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.compression.description import Description
from crystalline.contract import Edits, LanguageModel, ModelOutput
from crystalline.layers.attention_form import AttentionForm
from crystalline.layers.initialisation import init_weights
from crystalline.layers.parts import Parts
from crystalline.layers.position_cache import PositionCache
from crystalline.models.abstractinator.blocks import Block, Stack
from crystalline.models.abstractinator.cache import PyramidCache
from crystalline.models.abstractinator.climb import Climb, codes_of, own_losses
from crystalline.models.abstractinator.code_head import mean_where
from crystalline.models.abstractinator.descent import Costs, descend, token_costs, top_costs
from crystalline.models.abstractinator.level import Abstractinator
from crystalline.models.abstractinator.options import (
    EncoderOptions,
    EntropyOptions,
    ExpanderOptions,
    Segmentation,
    TopOptions,
    check_mode,
)
from crystalline.models.abstractinator.symbols import Sight, Symbols, TokenInput
from crystalline.models.abstractinator.top import CodeSequenceTransformer
from crystalline.quantizers.codebook import Codebook


class AbstractinatorPyramid(LanguageModel):
    """Cuts bytes where they surprise it, makes a code of each segment, and speaks from the codes.

    Level 0 reads bytes, level l + 1 the codes of level l; the top is a causal transformer over the
    codes of the last level. On the way back every level foretells its symbols from those before
    and from what the level above says of the segment that is being written, which knows only
    segments before it. So no byte is foretold from a code that has seen it: this is a language
    model, not an autoencoder.

    mode "latent_conditioning": it says a vector. "discrete": it says a code, or rather the mean of
    the codes that it foretells; expanders learn to write a segment from its own code as well
    (loss/reconstruction), so that codes alone can be stored and spoken from: see
    `crystalline.models.abstractinator.codec`.

    Args:
        vocab_size: Number of token ids.
        context_length: Longest sequence in tokens.
        d_model: Width of encoders, expanders and segments.
        num_heads: Their heads.
        num_levels: Levels of segments.
        quantizer: Builds a level's quantizer from `d_model=`; called once a level.
        entropy: Of the entropy models.
        segmentation: Where segments of tokens end.
        encoder: Of encoder and pooling.
        expander: Of the expanders.
        top: Of the language model over codes.
        attention: Form and backend, everywhere.
        mode: How expanders know what the level above says of a segment; see above.
        upper_segmentation: Where segments of codes end; None: as `segmentation`.
        quantize: False leaves segments continuous: the control without codes.
        document_end: Id of the token between documents, which nothing crosses; None: there is none.
        commitment_cost: Weight of the commitment loss.
        lambda_entropy: Weight of the entropy models' loss.
        lambda_top_lm: Weight of the top's loss on codes; 0: it foretells no codes.
        lambda_expansion: Weight of the upper expanders' loss on codes; 0: they foretell none.
        lambda_content: Weight of the loss of `ContentHead`; 0: segments are not asked.
        dropout: On embeddings and on what blocks write.

    Raises:
        ValueError: If options contradict each other.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        d_model: int,
        num_heads: int,
        num_levels: int,
        quantizer: Callable[..., Codebook],
        entropy: EntropyOptions,
        segmentation: Segmentation,
        encoder: EncoderOptions,
        expander: ExpanderOptions,
        top: TopOptions,
        attention: AttentionForm,
        mode: Literal["latent_conditioning", "discrete"] = "latent_conditioning",
        upper_segmentation: Segmentation | None = None,
        quantize: bool = True,
        document_end: int | None = None,
        commitment_cost: float = 0.25,
        lambda_entropy: float = 1.0,
        lambda_top_lm: float = 0.1,
        lambda_expansion: float = 0.1,
        lambda_content: float = 0.1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(vocab_size, context_length)
        if num_levels < 1:
            raise ValueError(f"model.num_levels must be at least 1, got {num_levels}")
        if document_end is not None and not 0 <= document_end < vocab_size:
            raise ValueError(
                f"model.document_end must be null or an id below {vocab_size}, got {document_end}"
            )
        self.mode = mode
        self.document_end = document_end
        self.commitment_cost = commitment_cost
        self.lambda_entropy = lambda_entropy
        self.lambda_top_lm = lambda_top_lm
        self.lambda_expansion = lambda_expansion
        self.lambda_content = lambda_content
        check_mode(mode, quantize, segmentation, lambda_top_lm, lambda_expansion)
        levels, length, width = [], context_length, None
        for index in range(num_levels):
            levels.append(
                Abstractinator(
                    None if index else vocab_size, d_model, num_heads, length,
                    quantizer if quantize else None, width, lambda_expansion > 0, entropy,
                    (upper_segmentation or segmentation) if index else segmentation,
                    encoder, expander, attention, dropout, content=lambda_content > 0,
                )
            )  # fmt: skip
            length = levels[-1].max_segments + 1
            book = levels[-1].compressor.quantizer
            width = None if book is None else book.targets.shape[-1]
        self.levels: Parts[Abstractinator] = Parts(levels)
        self.top = CodeSequenceTransformer(
            top, d_model, length, width if lambda_top_lm > 0 else None, attention, dropout
        )
        self._init_weights()

    def _init_weights(self) -> None:
        stacks = [part for part in self.modules() if isinstance(part, Stack)]
        written = [map_ for stack in stacks for block in stack.blocks for map_ in block.written()]
        deepest = max(len(stack.blocks) for stack in stacks)
        init_weights(self, residual=written, residual_std=0.02 / math.sqrt(2 * deepest))

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
            losses = own_losses(self.levels, climbs)
            if self.top.code_head is not None:
                losses["top_lm"] = mean_where(*top_costs(self.top, self.levels[-1], said, topmost))
            if costs:
                losses["expansion"] = torch.stack([mean_where(*cost) for cost in costs]).mean()
            if self.mode == "discrete":
                losses["reconstruction"] = self._reconstruction(climbs, said, topmost)
        if cache is not None:
            cache.position += tokens.shape[1]
        sizes = [book.codebook_size for book in self.codebooks().values()]
        found = codes_of(climbs, sizes) if codes else {}
        return ModelOutput(hidden, losses, found, self.head)

    def read(self, tokens: Tensor, cache: PyramidCache | None) -> Symbols:
        """Tokens as symbols of the first level."""
        start = 0 if cache is None else cache.position
        at = torch.arange(start, start + tokens.shape[1], device=tokens.device).expand_as(tokens)
        real = torch.ones_like(tokens, dtype=torch.bool)
        separator = ~real if self.document_end is None else tokens == self.document_end
        document = separator.cumsum(1)
        if cache is not None:
            document = document + cache.documents[:, None]
            cache.documents = document[:, -1]
        return Symbols(at, real, separator, document, at, tokens)

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

    def _reconstruction(
        self, climbs: list[Climb], said: Tensor | None, topmost: Symbols | None
    ) -> Float[Tensor, ""]:
        """Mean nats of a symbol that is told its segment's code, summed over levels."""
        hidden, costs = self.descend(climbs, said, topmost, own=True)
        costs.append(token_costs(hidden, self.head, climbs[0].symbols))
        return torch.stack([mean_where(*cost) for cost in costs]).sum()

    @property
    def _documents(self) -> bool:
        return self.document_end is not None

    @property
    def head(self) -> Float[Tensor, "vocab d_model"]:
        """Weights of the scores: the first expander's embedding."""
        lowest = self.levels[0].expander.input
        assert isinstance(lowest, TokenInput)
        return lowest.embedding.weight

    def loss_weights(self, progress: float) -> dict[str, float]:
        return {
            "entropy_model": self.lambda_entropy,
            "codebook": 1.0,
            "commitment": self.commitment_cost,
            "top_lm": self.lambda_top_lm,
            "expansion": self.lambda_expansion,
            "content": self.lambda_content,
            "reconstruction": 1.0,
        }

    def description(self) -> Description:
        from crystalline.models.abstractinator.two_part import TwoPart

        return TwoPart(self) if self.mode == "discrete" else super().description()

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
