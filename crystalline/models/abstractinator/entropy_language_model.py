"""The entropy model of the first level alone, as a language model: what segments are cut by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from crystalline.contract import Edits, LanguageModel, ModelOutput
from crystalline.layers.attention_form import AttentionForm
from crystalline.layers.position_cache import PositionCache
from crystalline.models.abstractinator.blocks import Block, init_stacks
from crystalline.models.abstractinator.entropy_model import EntropyModel
from crystalline.models.abstractinator.options import EntropyOptions
from crystalline.models.abstractinator.symbols import Sight, TokenInput, read_tokens
from crystalline.models.base_context import check_base_context


@dataclass
class EntropyCache:
    """What generation carries over."""

    symbols: PositionCache
    stack: list[PositionCache]
    documents: Int[Tensor, " batch"]
    """Begun in the tokens seen."""
    position: int = 0
    """Tokens seen."""


class EntropyLanguageModel(LanguageModel):
    """Trained by itself and then frozen, it cuts the text of a pyramid: `model.entropy_base`.

    Args:
        vocab_size: Number of token ids.
        context_length: Longest sequence in tokens, at least that of the pyramid.
        entropy: Sizes; as in the pyramid.
        attention: Form and backend.
        document_end: Id of the token between documents, which nothing crosses; None: there is none.
        dropout: On what blocks write.

    Raises:
        ValueError: If its head names no tokens.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        entropy: EntropyOptions,
        attention: AttentionForm,
        document_end: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(vocab_size, context_length)
        if entropy.head != "categorical":
            raise ValueError(
                f"model.entropy.head must be categorical for a language model, got {entropy.head!r}"
            )
        self.document_end = document_end
        self.entropy_model = EntropyModel(
            entropy, vocab_size, entropy.d_model, None, context_length, attention, dropout
        )
        init_stacks(self)

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        codes: bool = False,
        edits: Edits | None = None,
        cache: EntropyCache | None = None,
    ) -> ModelOutput:
        embedding = self.entropy_model.input
        assert isinstance(embedding, TokenInput)
        start, documents = (0, None) if cache is None else (cache.position, cache.documents)
        symbols = read_tokens(tokens, self.document_end, start, documents)
        known, stack = (None, None) if cache is None else (cache.symbols, cache.stack)
        sight = Sight(symbols, self.document_end is not None, known)
        hidden = self.entropy_model(symbols, sight, stack)
        if cache is not None:
            cache.position += tokens.shape[1]
            cache.documents = symbols.document[:, -1]
        return ModelOutput(hidden, head=embedding.embedding.weight)

    def init_cache(self, batch_size: int) -> EntropyCache:
        device = self.entropy_model.norm.weight.device
        return EntropyCache(
            PositionCache(batch_size, self.context_length),
            self.entropy_model.stack.init_caches(batch_size),
            torch.zeros(batch_size, dtype=torch.int64, device=device),
        )

    def alike_parts(self) -> list[Block]:
        return list(self.entropy_model.stack.blocks)


def frozen_entropy_model(
    base: LanguageModel, entropy: EntropyOptions, context_length: int, document_end: int | None
) -> EntropyModel:
    """The entropy model of `base`, for a pyramid that asks for one of these options.

    Raises:
        ValueError: If `base` is another model, or was built for other options or shorter texts.
    """
    if not isinstance(base, EntropyLanguageModel):
        raise ValueError(
            "model.entropy_base must be a run of model=abstractinator_entropy, not of "
            f"{type(base).__name__}"
        )
    trained = vars(base.entropy_model.options)
    pairs = {f"entropy.{key}": (trained[key], value) for key, value in vars(entropy).items()}
    pairs["document_end"] = base.document_end, document_end
    for key, (has, wanted) in pairs.items():
        if has != wanted:
            raise ValueError(f"model.{key}={wanted}: model.entropy_base has {key}={has}")
    check_base_context("entropy_base", base, context_length)
    base.entropy_model.freeze()
    return base.entropy_model
