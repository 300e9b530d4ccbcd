"""The model: stages of blocks, each on a sequence half as long as the one below."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.contract import Codes, Edits, LanguageModel, ModelOutput
from crystalline.layers.fusion import ResidualTokenFusionBlock
from crystalline.layers.initialisation import init_weights
from crystalline.layers.parts import Parts
from crystalline.models.ziggurat.block import (
    BlockState,
    DiscretizedManifoldBlock,
    Mode,
    Placement,
)
from crystalline.models.ziggurat.pyramid import BagOfTokens, Feedback, NextCodes, Pyramid
from crystalline.quantizers.codebook import QuantizerOutput
from crystalline.quantizers.residual import ResidualQuantizer


class Stage(nn.Module):
    """Blocks that share a sequence length."""

    def __init__(self, blocks: Sequence[DiscretizedManifoldBlock]) -> None:
        super().__init__()
        self.blocks: Parts[DiscretizedManifoldBlock] = Parts(blocks)


@dataclass
class StageCache:
    """What generation keeps of one stage."""

    states: list[BlockState]
    pending: Float[Tensor, "batch few d_model"]
    """Vectors without a partner, waiting to be fused."""
    vectors: Float[Tensor, "batch group d_model"]
    """All vectors so far, for feedback."""


@dataclass
class ZigguratCache:
    """Generation state: constant in size, but for the vectors that feedback reads."""

    stages: list[StageCache]
    tail: BlockState | None
    position: int = 0


@dataclass
class Trace:
    """What the sites chose in one forward pass."""

    edits: Edits
    chosen: dict[str, tuple[QuantizerOutput, int]] = field(default_factory=dict)
    """Output and span, by site."""

    def loss(self, name: str, blocks: int) -> Tensor:
        return torch.stack([out.losses[name] for out, _ in self.chosen.values()]).sum() / blocks


class Ziggurat(LanguageModel):
    """Retention blocks that write codes; stages above 0 read pairs of vectors, then pairs of pairs.

    Logits come from stage 0 alone unless `pyramid.feedback` says otherwise; the stages above learn
    by their own objective, whose gradient reaches stage 0 through the fusions.

    `mode="source"` is the published V1 (spec sections 2 to 5), defects included: codes are added to
    the stream, straight-through goes through an affine norm, nothing trains the upper stages, codes
    start at N(0, 0.02) and are never revived. It then takes V1's placement, pyramid and quantizer
    options; sizes stay as configured.

    Args:
        vocab_size: Number of token ids.
        context_length: Longest sequence in tokens.
        d_model: Width.
        layers_per_stage: Blocks of every stage; its length is the height of the pyramid.
        num_heads: Heads of every retention.
        quantizer: Builds one block's quantizer from `d_model=`; called once a block.
        pyramid: Objective and feedback of the stages above 0.
        mode: "fixed" or "source".
        placement: Where the quantizers stand; None for the mode's own ("replace_mlp" or "add").
        commitment_cost: Weight of the commitment loss; ignored in source mode, as published.
        d_mlp: Width of every MLP's hidden layer; 4 d_model if None.
        short_conv: Width of a causal convolution before each retention and MLP; 0 for none.
        gated: Whether the decays of retention depend on the input.
        dropout: On embedding, retention and MLP outputs.

    Raises:
        ValueError: If options contradict each other.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        d_model: int,
        layers_per_stage: Sequence[int],
        num_heads: int,
        quantizer: Callable[..., ResidualQuantizer],
        pyramid: Pyramid,
        mode: Mode = "fixed",
        placement: Placement | None = None,
        commitment_cost: float = 0.25,
        d_mlp: int | None = None,
        short_conv: int = 0,
        gated: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(vocab_size, context_length)
        source = mode == "source"
        if source:
            placement, pyramid = "add", Pyramid(objective="none")
            short_conv, gated, d_mlp = 0, False, None
            quantizer = functools.partial(
                quantizer, codebook_dim=None, estimator="straight_through", similarity="euclidean",
                update="gradient", level_dropout=0.0, warmup=0.0,
            )  # fmt: skip
        placement = placement or "replace_mlp"
        if placement == "add" and not source:
            quantizer = _without_added_gradient(quantizer)
        _check(mode, placement, pyramid, layers_per_stage)
        self.mode = mode
        self.pyramid = pyramid
        self.commitment_cost = commitment_cost
        self.alignment = 2 ** (len(layers_per_stage) - 1)

        def block(span: int) -> DiscretizedManifoldBlock:
            return DiscretizedManifoldBlock(
                d_model, d_mlp or 4 * d_model, num_heads, max(1, context_length // span), dropout,
                placement=placement, mode=mode, quantizer=quantizer,
                short_conv=short_conv, gated=gated,
            )  # fmt: skip

        self.embedding = nn.Embedding(vocab_size, d_model)
        self.dropout = nn.Dropout(dropout)
        self.stages: Parts[Stage] = Parts(
            Stage([block(2**stage) for _ in range(count)])
            for stage, count in enumerate(layers_per_stage)
        )
        self.fusions = nn.ModuleList(
            ResidualTokenFusionBlock(d_model) for _ in layers_per_stage[1:]
        )
        self.norm = nn.LayerNorm(d_model)
        spans = [2**stage for stage in range(1, len(layers_per_stage))]
        self.objectives = nn.ModuleList(
            self._objective(stage, span) for stage, span in enumerate(spans, 1)
        )
        feedback = pyramid.feedback
        self.feedbacks = nn.ModuleList(
            Feedback(d_model, num_heads, span, feedback) for span in spans if feedback != "none"
        )
        self.tail = block(1) if self.feedbacks else None
        self._init_weights(source)

    def _objective(self, stage: int, span: int) -> nn.Module:
        d_model = self.embedding.embedding_dim
        if self.pyramid.objective == "bag":
            return BagOfTokens(d_model, span)
        if self.pyramid.objective == "codes":
            book = self.stages[stage].blocks[-1].quantizer
            assert book is not None
            return NextCodes(d_model, book)
        return nn.Identity()

    def _init_weights(self, source: bool) -> None:
        blocks = self._blocks()
        depth = len(blocks) if source else len(self.stages[0].blocks)
        init_weights(
            self,
            residual=[linear for block in blocks for linear in block.residual_maps()],
            residual_std=0.02 / math.sqrt(2 * depth),
        )
        for block in blocks:
            for linear in block.code_maps():
                nn.init.normal_(linear.weight, std=0.5 * linear.in_features**-0.5)
        if source:  # the published initialiser reaches the codes as well (defect Z20)
            for book in self.codebooks().values():
                nn.init.normal_(book.codes, std=0.02)
                book.maintained = False

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        codes: bool = False,
        edits: Edits | None = None,
        cache: ZigguratCache | None = None,
    ) -> ModelOutput:
        trace = Trace(edits or {})
        h = self._run_stage(0, self.dropout(self.embedding(tokens)), trace, cache)
        # Stages that cannot reach the logits rest unless they are trained or looked at.
        tops: list[Tensor] = []
        if self.training or codes or self.feedbacks:
            tops = self._climb(h, trace, cache)
        if self.tail is not None:
            h = self._feed_back(h, tops, trace, cache)
        if cache is not None:
            cache.position += tokens.shape[1]
        losses = self._losses(tokens, tops, trace) if self.training else {}
        found = self._codes(trace) if codes else {}
        return ModelOutput(self.norm(h), losses, found, self.embedding.weight)

    def _run_stage(
        self, stage: int, x: Tensor, trace: Trace, cache: ZigguratCache | None
    ) -> Float[Tensor, "batch pos d_model"]:
        for index, block in enumerate(self.stages[stage].blocks):
            state = None if cache is None else cache.stages[stage].states[index]
            site = f"stages.{stage}.blocks.{index}.quantizer"
            x = self._run_block(block, x, state, site, 2**stage, trace)
        return x

    def _run_block(
        self,
        block: nn.Module,
        x: Tensor,
        state: BlockState | None,
        site: str,
        span: int,
        trace: Trace,
    ) -> Tensor:
        positions = None
        if site in trace.edits:
            start = 0 if state is None else state.retention.position
            positions = torch.arange(start, start + x.shape[1], device=x.device)
        x, chosen = block(x, state, trace.edits.get(site), positions)
        if chosen is not None:
            trace.chosen[site] = (chosen, span)
        return x

    def _climb(self, h: Tensor, trace: Trace, cache: ZigguratCache | None) -> list[Tensor]:
        """Outputs of the stages above 0; a stage without a vector ends the climb."""
        below = h.detach() if self.pyramid.detach else h
        tops = []
        for stage, fusion in enumerate(self.fusions, 1):
            if cache is not None:
                lower = cache.stages[stage - 1]
                below = torch.cat([lower.pending, below], dim=1)
                lower.pending = below[:, below.shape[1] - below.shape[1] % 2 :]
            below = fusion(below)
            if below.shape[1]:
                below = self._run_stage(stage, below, trace, cache)
            elif cache is None:
                break
            tops.append(below)
        return tops

    def _feed_back(
        self, h: Tensor, tops: list[Tensor], trace: Trace, cache: ZigguratCache | None
    ) -> Float[Tensor, "batch pos d_model"]:
        start = 0 if cache is None else cache.position
        for stage, feedback in enumerate(self.feedbacks, 1):
            vectors = tops[stage - 1] if stage <= len(tops) else h[:, :0]
            if cache is not None:
                held = cache.stages[stage]
                vectors = held.vectors = torch.cat([held.vectors, vectors], dim=1)
            h = feedback(h, vectors, start)
        assert self.tail is not None
        state = None if cache is None else cache.tail
        return self._run_block(self.tail, h, state, "tail.quantizer", 1, trace)

    def _losses(self, tokens: Tensor, tops: list[Tensor], trace: Trace) -> dict[str, Tensor]:
        losses = {}
        if trace.chosen:
            blocks = len(trace.chosen)
            if self.mode == "source":  # the divisor counts stages that did not run (defect Z12)
                blocks = sum(len(stage.blocks) for stage in self.stages)
            losses = {name: trace.loss(name, blocks) for name in ("codebook", "commitment")}
        if self.pyramid.objective == "bag":
            terms = [
                objective(top, tokens, self.embedding.weight)
                for objective, top in zip(self.objectives, tops, strict=False)
            ]
        elif self.pyramid.objective == "codes":
            terms = [self._code_loss(stage, top, trace) for stage, top in enumerate(tops, 1)]
        else:
            terms = []
        if terms:
            losses["pyramid"] = torch.stack(terms).mean()
        return losses

    def _code_loss(self, stage: int, top: Tensor, trace: Trace) -> Tensor:
        blocks = self.stages[stage].blocks
        chosen, _ = trace.chosen[f"stages.{stage}.blocks.{len(blocks) - 1}.quantizer"]
        return self.objectives[stage - 1](top, chosen.indices, blocks[-1].quantizer)

    def _codes(self, trace: Trace) -> dict[str, Codes]:
        books = self.codebooks()
        return {
            site: Codes(out.indices, books[site].codebook_size, span=span)
            for site, (out, span) in trace.chosen.items()
        }

    def loss_weights(self, progress: float) -> dict[str, float]:
        commitment = 0.0 if self.mode == "source" else self.commitment_cost
        return {"codebook": 1.0, "commitment": commitment, "pyramid": self.pyramid.weight}

    def parameters_without_gradient(self) -> frozenset[str]:
        if self.mode != "source":
            return frozenset()
        idle = ("fusions.", *(f"stages.{stage}." for stage in range(1, len(self.stages))))
        books = {name for name, _ in self.codebook_parameters()}
        names = (name for name, _ in self.named_parameters())
        return frozenset(name for name in names if name.startswith(idle) and name not in books)

    def _blocks(self) -> list[DiscretizedManifoldBlock]:
        return [part for part in self.modules() if isinstance(part, DiscretizedManifoldBlock)]

    def alike_parts(self) -> list[nn.Module]:
        return list(self._blocks())

    def init_cache(self, batch_size: int) -> Any:
        nothing = self.embedding.weight.new_zeros(batch_size, 0, self.embedding.embedding_dim)
        stages = [
            StageCache([b.init_state(batch_size) for b in stage.blocks], nothing, nothing)
            for stage in self.stages
        ]
        tail = None if self.tail is None else self.tail.init_state(batch_size)
        return ZigguratCache(stages, tail)


def _without_added_gradient(
    quantizer: Callable[..., ResidualQuantizer],
) -> Callable[..., ResidualQuantizer]:
    """Straight-through would count an added branch twice (defect Z04); rotation may stay."""

    def build(d_model: int) -> ResidualQuantizer:
        book = quantizer(d_model=d_model)
        if book.estimator == "straight_through":
            book.estimator = "none"
        return book

    return build


def _check(mode: str, placement: str, pyramid: Pyramid, layers_per_stage: Sequence[int]) -> None:
    if mode not in ("fixed", "source"):
        raise ValueError(f"model.mode must be fixed or source, got {mode!r}")
    placements = ("add", "replace_mlp", "replace_stream", "none", "continuous")
    if placement not in placements:
        raise ValueError(
            f"model.placement must be one of {', '.join(placements)}, got {placement!r}"
        )
    if not layers_per_stage or min(layers_per_stage) < 1:
        raise ValueError(
            f"model.layers_per_stage needs a positive count a stage, got {layers_per_stage}"
        )
    above = len(layers_per_stage) > 1
    trained = pyramid.objective != "none" or pyramid.feedback != "none"
    if mode == "fixed" and above and not trained:
        raise ValueError(
            "stages above 0 would learn nothing: set model.pyramid.objective, "
            "model.pyramid.feedback or a single entry in model.layers_per_stage"
        )
    if pyramid.objective == "codes" and placement in ("none", "continuous") and above:
        raise ValueError(
            f"model.pyramid.objective=codes needs codes; placement={placement} has none"
        )
