"""The model: a pre-norm transformer whose attention and MLPs speak through bottlenecks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.contract import Codes, Edits, LanguageModel, ModelOutput
from crystalline.layers.attention import CausalSelfAttention, KeyValueCache, Reach
from crystalline.layers.initialisation import init_weights
from crystalline.layers.mlp import MLP
from crystalline.layers.parts import Parts
from crystalline.models.crystalline.sites import PLACES, Build, Selection, Sites, builder
from crystalline.quantizers.bottlenecks.grouped import GroupedBottleneck, Trace, mean_losses
from crystalline.ramp import ramp

WARMUP = (0.05, 0.2)
"""Shares of training between which the weight of the compression loss grows from 0."""


class CrystallineBlock(nn.Module):
    """x + attention(norm x), then x + MLP(norm x), each through its bottleneck if it has one."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        d_mlp: int,
        context_length: int,
        dropout: float,
        places: Sites,
        bottleneck: Build,
        reach: Reach,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(d_model, bias=False)
        self.attention = CausalSelfAttention(d_model, num_heads, context_length, dropout, reach)
        self.mlp_norm = nn.LayerNorm(d_model, bias=False)
        self.feedforward = MLP(d_model, d_mlp, dropout, bias=False)
        groups = {place: places.groups for place in PLACES} | {"attn_pre": num_heads}
        for place in PLACES:  # site names: layers.<i>.<place>.group.<g>
            gain, prior = places.gain(place), places.prior(place)
            build = partial(bottleneck, d_model, groups[place], gain, prior)
            setattr(self, place, build() if place in places.places else None)
        self.corruption = places.corruption

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        trace: Trace,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        start = 0 if cache is None else cache.length
        positions = torch.arange(start, start + x.shape[1], device=x.device)
        through = partial(self._through, trace, positions)
        read = through("attn_pre", self.attention.mix(self.attention_norm(x), cache))
        x = x + through("attn_post", self.attention.dropout(self.attention.out(read)))
        x = x + through("mlp", self.feedforward(self.mlp_norm(x)))
        return through("block", x)

    def _through(
        self, trace: Trace, positions: Int[Tensor, " pos"], place: str, y: Tensor
    ) -> Tensor:
        site = getattr(self, place)
        y = y if site is None else site(y, trace, place, positions)
        share = self.corruption.get(place, 0.0)
        if not (self.training and share and len(y) > 1):  # one sequence has no other
            return y
        wrong = torch.rand_like(y[..., :1], dtype=torch.float32) < share
        return torch.where(wrong, y.detach().roll(1, 0), y)


class Crystalline(LanguageModel):
    """A transformer with bottlenecks of k codes.

    `mode="crystalline"` is the bottleneck of spec section 4, with a learned temperature;
    "codebook_features" that of Tamkin et al. 2023 (arXiv:2310.17230); "source" the seed's as
    written, defects included (spec sections 2 and 3). "noise" has no codes, but noise of the same
    error (spec section 7.3, baseline iv). Without places and learned positions,
    and with `reach="self"`, it is `Transformer`.

    Args:
        vocab_size: Number of token ids.
        context_length: Longest sequence in tokens.
        d_model: Width.
        num_layers: Blocks.
        num_heads: Heads a block.
        codebook_size: K, codes of each group's book.
        num_codes_k: k, codes a position and group.
        sites: Where bottlenecks stand.
        selection: How those of mode crystalline choose.
        mode: "crystalline", "codebook_features", "source" or "noise".
        lambda_compress: Weight of loss/compression; 0 until 5 % of training, whole from 20 % on (in
            source mode from the start).
        lambda_codebook: Weight of loss/codebook.
        lambda_commit: Weight of loss/commitment.
        lambda_gate: Weight of loss/gate = mean of 1 - g over groups: presses gates towards codes.
        temp_init: Temperature at the start.
        temp_min: Lowest temperature.
        d_mlp: Width of the MLP's hidden layer; 4 d_model if None.
        dropout: On the embedding and on what attention and MLP write.
        learned_positions: Adds a learned vector for each position to the embedding; heads have
            rotary positions in any case, which tell distances but no places.
        reach: What heads read; see `CausalSelfAttention`. With "past", and wholly with "before",
            what joins a token to what came before it is left to the MLPs.

    Raises:
        ValueError: If options contradict each other.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        d_model: int,
        num_layers: int,
        num_heads: int,
        codebook_size: int,
        num_codes_k: int,
        sites: Sites,
        selection: Selection,
        mode: str = "crystalline",
        lambda_compress: float = 0.01,
        lambda_codebook: float = 1.0,
        lambda_commit: float = 0.25,
        lambda_gate: float = 0.0,
        temp_init: float = 0.05,
        temp_min: float = 0.005,
        d_mlp: int | None = None,
        dropout: float = 0.0,
        learned_positions: bool = False,
        reach: Reach = "self",
    ) -> None:
        super().__init__(vocab_size, context_length)
        build = builder(
            mode, codebook_size, num_codes_k, temp_init, temp_min, selection,
            gated=sites.gate == "learned", warmup=sites.warmup,
        )  # fmt: skip
        self.mode = mode
        self.weights = {
            "compression": lambda_compress,
            "codebook": lambda_codebook,
            "commitment": lambda_commit,
            "gate": lambda_gate,
        }
        for name, layers in {"layers": sites.layers, "prior_layers": sites.prior_layers}.items():
            unknown = [layer for layer in layers or () if layer not in range(num_layers)]
            if unknown:
                raise ValueError(f"sites.{name} must lie in [0, {num_layers}), got {unknown}")
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Embedding(context_length, d_model) if learned_positions else None
        self.dropout = nn.Dropout(dropout)
        self.layers: Parts[CrystallineBlock] = Parts(
            CrystallineBlock(
                d_model, num_heads, d_mlp or 4 * d_model, context_length, dropout,
                sites.at(layer), build, reach,
            )
            for layer in range(num_layers)
        )  # fmt: skip
        self.norm = nn.LayerNorm(d_model, bias=False)
        written = [m for b in self.layers for m in (b.attention.out, b.feedforward.down)]
        init_weights(self, residual=written, residual_std=0.02 / math.sqrt(2 * num_layers))

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        codes: bool = False,
        edits: Edits | None = None,
        cache: list[KeyValueCache] | None = None,
    ) -> ModelOutput:
        chosen: dict[str, Codes] = {}
        losses: list[Mapping[str, Tensor]] = []
        x = self.embedding(tokens)
        if self.positions is not None:
            start = 0 if cache is None else cache[0].length
            x = x + self.positions.weight[start : start + tokens.shape[1]]
        x = self.dropout(x)
        for index, block in enumerate(self.layers):
            name = f"layers.{index}"
            trace = Trace.of(name, edits, entropy=codes)
            x = block(x, trace, None if cache is None else cache[index])
            if codes:
                chosen |= {f"{name}.{site}": found for site, found in trace.codes.items()}
            losses += trace.losses
        return ModelOutput(self.norm(x), mean_losses(losses), chosen, self.embedding.weight)

    def init_cache(self, batch_size: int) -> Any:
        return [block.attention.init_cache(batch_size) for block in self.layers]

    def begin_round(self, progress: float) -> None:
        super().begin_round(progress)
        for bottleneck in self._bottlenecks().values():
            bottleneck.begin_round(progress)

    def loss_weights(self, progress: float) -> dict[str, float]:
        if self.mode == "source":
            return self.weights
        grown = ramp(progress, *WARMUP)
        return self.weights | {"compression": self.weights["compression"] * grown}

    def temperatures(self) -> dict[str, Tensor]:
        return {
            name: part.temperature.summary()
            for name, part in self._bottlenecks().items()
            if part.temperature.learned
        }

    def gates(self) -> dict[str, Float[Tensor, " groups"]]:
        """By place ("layers.0.mlp"): how much of what each group writes is codes, in [0, 1]."""
        return {
            name: part.gate.detach().sigmoid()
            for name, part in self._bottlenecks().items()
            if part.gate is not None
        }

    def alike_parts(self) -> list[nn.Module]:
        return list(self.layers)

    def _bottlenecks(self) -> dict[str, GroupedBottleneck]:
        parts = self.named_modules()
        return {name: part for name, part in parts if isinstance(part, GroupedBottleneck)}
