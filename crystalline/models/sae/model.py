"""A frozen model with a sparse autoencoder at each site: read in training, spliced in evaluation.

Training sees the base as it is and asks for reconstructions alone. In evaluation they take the
place of what they reconstruct, so the loss is what the autoencoders cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from crystalline.contract import Codes, Edits, LanguageModel, ModelOutput
from crystalline.layers.parts import Parts
from crystalline.models.base_context import check_base_context
from crystalline.models.sae.places import Point, Sites, met, points_of
from crystalline.quantizers.bottlenecks import Temperature
from crystalline.quantizers.bottlenecks.grouped import GroupedBottleneck, Trace, mean_losses
from crystalline.quantizers.sparse_autoencoder import SparseAutoencoder


@dataclass
class Cache:
    """What generation carries over."""

    base: Any
    position: int = 0
    """Positions seen."""


class SparseAutoencoders(LanguageModel):
    """A trained model whose insides are reconstructed from k of K latents.

    Top-k autoencoders of Gao et al. 2024 (arXiv:2406.04093), with the batch-wise choice of Bussmann
    et al. 2024 (arXiv:2412.06410). Sites are `layers.<i>.<place>.group.<g>`, as in
    `models.crystalline`: with the same sites, K and k, as many bits say which latents are active as
    say which codes are.

    Args:
        vocab_size: Number of token ids.
        context_length: Longest sequence in tokens, at most that of the base.
        base: The trained model; it is frozen and stays in eval mode. `model.base=<checkpoint>`.
        codebook_size: K, latents of each autoencoder.
        num_codes_k: k, latents a position.
        sites: Where autoencoders stand.
        budget: See `SparseAutoencoder`.
        dead_positions: See `SparseAutoencoder`.
        lambda_dead: Weight of loss/dead; loss/reconstruction has weight 1.

    Raises:
        ValueError: If the base reads less than it should, or has no such places.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        base: LanguageModel,
        codebook_size: int,
        num_codes_k: int,
        sites: Sites,
        budget: str = "batch",
        dead_positions: int = 100_000,
        lambda_dead: float = 1 / 32,
    ) -> None:
        super().__init__(vocab_size, context_length)
        _check(base, vocab_size, context_length)
        self.base = base.requires_grad_(False).eval()
        self.lambda_dead = lambda_dead
        blocks = base.alike_parts()
        chosen = range(len(blocks)) if sites.layers is None else sites.layers
        if any(layer not in range(len(blocks)) for layer in chosen):
            raise ValueError(f"sites.layers must lie in [0, {len(blocks)}), got {list(chosen)}")

        def autoencoder(width: int) -> nn.Module:
            return SparseAutoencoder(width, codebook_size, num_codes_k, budget, dead_positions)

        self.layers: Parts[nn.ModuleDict] = Parts(nn.ModuleDict() for _ in blocks)
        self._points: list[dict[str, Point]] = [{} for _ in blocks]
        for layer in chosen:
            found = points_of(blocks[layer])
            missing = [place for place in sites.places if place not in found]
            if missing:
                raise ValueError(
                    f"sites.places: block {layer} of model.base ({type(base).__name__}) has no "
                    f"{', '.join(missing)}; valid: {', '.join(found) or 'none'}"
                )
            for place in sites.places:
                point = self._points[layer][place] = found[place]
                self.layers[layer][place] = GroupedBottleneck(
                    point.width, point.heads or sites.groups, autoencoder, _constant, gain=None
                )

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        codes: bool = False,
        edits: Edits | None = None,
        cache: Cache | None = None,
    ) -> ModelOutput:
        start = 0 if cache is None else cache.position
        positions = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        names = [f"layers.{layer}" for layer in range(len(self.layers))]
        traces = {name: Trace.of(name, edits, entropy=codes) for name in names}

        def through(name: str, vectors: Tensor) -> Tensor:
            layer, place = name.rsplit(".", 1)
            return self.get_submodule(name)(vectors, traces[layer], place, positions)

        read: dict[str, Tensor] = {}
        past = None if cache is None else cache.base
        if self.training:
            with torch.no_grad(), met(self._named_points(), read.__setitem__):
                output = self.base(tokens, cache=past)
            for name, vectors in read.items():
                through(name, vectors)
        else:
            with met(self._named_points(), through):
                output = self.base(tokens, cache=past)
        if cache is not None:
            cache.position += tokens.shape[1]
        chosen: dict[str, Codes] = {}
        losses: list[Mapping[str, Tensor]] = []
        for layer, trace in traces.items():
            if codes:
                chosen |= {f"{layer}.{site}": found for site, found in trace.codes.items()}
            losses += trace.losses
        return ModelOutput(output.hidden, mean_losses(losses), chosen, output.head)

    def init_cache(self, batch_size: int) -> Cache:
        return Cache(self.base.init_cache(batch_size))

    def train(self, mode: bool = True) -> SparseAutoencoders:
        super().train(mode)
        self.base.eval()  # no dropout, no losses, nothing counted
        return self

    def loss_weights(self, progress: float) -> dict[str, float]:
        return {"reconstruction": 1.0, "dead": self.lambda_dead}

    def alike_parts(self) -> list[nn.Module]:
        return [part for layer in self.layers for part in layer.values()]

    def codebooks(self) -> dict[str, Any]:
        """Those of the autoencoders; codes of the base are a part of what is frozen."""
        every = super().codebooks().items()
        return {site: book for site, book in every if not site.startswith("base.")}

    def _named_points(self) -> dict[str, Point]:
        return {
            f"layers.{layer}.{place}": point
            for layer, points in enumerate(self._points)
            for place, point in points.items()
        }


def _constant(num_groups: int, width: int) -> nn.Module:
    """Latents have no temperature: scores are as they are."""
    return Temperature(num_groups, width, scope="fixed", init=1.0, minimum=0.5)


def _check(base: LanguageModel, vocab_size: int, context_length: int) -> None:
    if base.vocab_size != vocab_size:
        raise ValueError(f"model.base reads {base.vocab_size} token ids, the data has {vocab_size}")
    check_base_context("base", base, context_length)
    if base.alignment > 1:
        raise ValueError("model.base must write a vector for each token; this one fuses tokens")
