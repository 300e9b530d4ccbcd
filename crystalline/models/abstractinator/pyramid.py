"""The model as it is built and trained: levels of segments and a top from their options."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crystalline.contract import LanguageModel
from crystalline.layers.attention_form import AttentionForm
from crystalline.layers.parts import Parts
from crystalline.models.abstractinator.blocks import init_stacks
from crystalline.models.abstractinator.climb import Climb, own_losses
from crystalline.models.abstractinator.code_head import mean_where
from crystalline.models.abstractinator.descent import Costs, token_costs
from crystalline.models.abstractinator.entropy_language_model import frozen_entropy_model
from crystalline.models.abstractinator.level import Abstractinator
from crystalline.models.abstractinator.levels_and_top import LevelsAndTop, Mode
from crystalline.models.abstractinator.options import (
    EncoderOptions,
    EntropyOptions,
    ExpanderOptions,
    Segmentation,
    TopOptions,
    check_mode,
)
from crystalline.models.abstractinator.symbols import Symbols
from crystalline.models.abstractinator.top import CodeSequenceTransformer
from crystalline.quantizers.codebook import Codebook


class AbstractinatorPyramid(LevelsAndTop):
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
        lambda_top_regression: Weight of the top's squared error on vectors; 0: it foretells none.
        lambda_expansion: Weight of the upper expanders' loss on codes; 0: they foretell none.
        lambda_content: Weight of the loss of `ContentHead`; 0: segments are not asked.
        dropout: On embeddings and on what blocks write.
        entropy_base: A trained `EntropyLanguageModel`, whose entropy model the first level gets; it
            is frozen. `model.entropy_base=<checkpoint>`; None: it is trained with the rest.

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
        mode: Mode = "latent_conditioning",
        upper_segmentation: Segmentation | None = None,
        quantize: bool = True,
        document_end: int | None = None,
        commitment_cost: float = 0.05,
        lambda_entropy: float = 1.0,
        lambda_top_lm: float = 0.1,
        lambda_top_regression: float = 0.0,
        lambda_expansion: float = 0.1,
        lambda_content: float = 1.0,
        dropout: float = 0.0,
        entropy_base: LanguageModel | None = None,
    ) -> None:
        if num_levels < 1:
            raise ValueError(f"model.num_levels must be at least 1, got {num_levels}")
        if document_end is not None and not 0 <= document_end < vocab_size:
            raise ValueError(
                f"model.document_end must be null or an id below {vocab_size}, got {document_end}"
            )
        check_mode(mode, quantize, segmentation, lambda_top_lm, lambda_expansion)
        levels, length, shape = [], context_length, None
        for index in range(num_levels):
            levels.append(
                Abstractinator(
                    None if index else vocab_size, d_model, num_heads, length,
                    quantizer if quantize else None, shape, lambda_expansion > 0, entropy,
                    (upper_segmentation or segmentation) if index else segmentation,
                    encoder, expander, attention, dropout, content=lambda_content > 0,
                )
            )  # fmt: skip
            length = levels[-1].max_segments + 1
            shape = levels[-1].compressor.book_shape
        over = CodeSequenceTransformer(
            top, d_model, length, shape if lambda_top_lm > 0 else None,
            lambda_top_regression > 0, attention, dropout,
        )  # fmt: skip
        super().__init__(vocab_size, context_length, Parts(levels), over, mode, document_end)
        self.commitment_cost = commitment_cost
        self.lambda_entropy = lambda_entropy
        self.lambda_top_lm = lambda_top_lm
        self.lambda_top_regression = lambda_top_regression
        self.lambda_expansion = lambda_expansion
        self.lambda_content = lambda_content
        init_stacks(self)
        if entropy_base is not None:
            lowest = self.levels[0].compressor
            if lowest.entropy_model is None:
                raise ValueError(
                    "model.entropy_base must be null for model.segmentation.rule="
                    f"{segmentation.rule}, which reads no entropy"
                )
            lowest.entropy_model = frozen_entropy_model(
                entropy_base, entropy, context_length, document_end
            )

    def losses(
        self,
        climbs: list[Climb],
        said: Float[Tensor, "batch symbol d_model"] | None,
        topmost: Symbols | None,
        costs: list[Costs],
    ) -> dict[str, Float[Tensor, ""]]:
        losses = own_losses(self.levels, climbs) | super().losses(climbs, said, topmost, costs)
        if costs:
            losses["expansion"] = torch.stack([mean_where(*cost) for cost in costs]).mean()
        if self.mode == "discrete":
            losses["reconstruction"] = self._reconstruction(climbs, said, topmost)
        return losses

    def _reconstruction(
        self, climbs: list[Climb], said: Tensor | None, topmost: Symbols | None
    ) -> Float[Tensor, ""]:
        """Mean nats of a symbol that is told its segment's code, the mean over levels."""
        hidden, costs = self.descend(climbs, said, topmost, own=True)
        costs.append(token_costs(hidden, self.head, climbs[0].symbols))
        return torch.stack([mean_where(*cost) for cost in costs]).mean()

    def loss_weights(self, progress: float) -> dict[str, float]:
        return {
            "entropy_model": self.lambda_entropy,
            "codebook": 1.0,
            "commitment": self.commitment_cost,
            "top_lm": self.lambda_top_lm,
            "top_regression": self.lambda_top_regression,
            "expansion": self.lambda_expansion,
            "content": self.lambda_content,
            "reconstruction": 1.0,
        }

    def end_round(self, skip: Bool[Tensor, ""]) -> None:
        super().end_round(skip)
        for level in self.levels:
            level.compressor.segmenter.end_round(skip)

    def load_base(self, name: str, base: LanguageModel) -> None:
        model = self.levels[0].compressor.entropy_model
        assert model is not None
        model.load_state_dict(base.get_submodule("entropy_model").state_dict())
