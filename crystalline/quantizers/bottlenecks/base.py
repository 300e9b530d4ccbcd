"""What all bottlenecks share: one book, k codes a position, what is counted and what is lost."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crystalline.contract import Choice, Codes, Edit
from crystalline.layers.precision import at_least_fp32
from crystalline.quantizers.bottlenecks.budget import BUDGETS, BatchBudget
from crystalline.quantizers.bottlenecks.prior import Prior, UsagePrior
from crystalline.quantizers.codebook import Codebook, Update
from crystalline.quantizers.top_k import top_k_coding

Aggregate = Literal["mean", "sum"]


@dataclass(frozen=True)
class BottleneckOutput:
    """What a bottleneck answers with."""

    quantized: Float[Tensor, "batch pos d_group"]
    inputs: Float[Tensor, "batch pos d_group"]
    """n, what `quantized` stands for: the input as the choice sees it, fp32."""
    codes: Codes | None
    """None where nothing is chosen. `entropy` is there when it was asked for."""
    losses: dict[str, Float[Tensor, ""]]
    """Empty in evaluation."""


def unit_rms(x: Tensor) -> Float[Tensor, "*axes d_group"]:
    """The input divided by its root mean square, at least fp32."""
    x = at_least_fp32(x)
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


class Bottleneck(Codebook):
    """A site of the contract whose positions choose k different codes of one book.

    Where `samples`, training chooses by chance; set `sampled` and evaluation does so too, without
    counting or learning anything.

    Frozen codes stay as they were drawn, N(0, 1): they are neither started from data nor revived.

    Args:
        d_group: Width of what passes.
        codebook_size: K.
        num_codes_k: k, codes a position.
        aggregate: Codes leave as their "mean" or their "sum".
        cosine: Choose by direction alone; else by the inner product.
        update: See `Codebook`.
        budget: k codes at every "position", or on average over the "batch"; see `BatchBudget`.
        prior: What rare codes cost; see `UsagePrior`.

    Raises:
        ValueError: If k lies outside [1, K] or an option is unknown.
    """

    def __init__(
        self,
        d_group: int,
        codebook_size: int,
        num_codes_k: int,
        *,
        aggregate: Aggregate = "mean",
        cosine: bool = True,
        update: Update = "gradient",
        budget: str = "position",
        prior: Prior | None = None,
    ) -> None:
        if not 1 <= num_codes_k <= codebook_size:
            raise ValueError(
                f"num_codes_k must lie in [1, {codebook_size}] (codebook_size), got {num_codes_k}"
            )
        if aggregate not in ("mean", "sum"):
            raise ValueError(f"aggregate must be mean or sum, got {aggregate!r}")
        if budget not in BUDGETS:
            raise ValueError(f"budget must be {' or '.join(BUDGETS)}, got {budget!r}")
        super().__init__(codebook_size, d_group, cosine=cosine, update=update)
        self.maintained = update != "frozen"
        self.num_codes_k = num_codes_k
        self.aggregate = aggregate
        self.share = 1 / num_codes_k if aggregate == "mean" else 1.0
        self.budget = BatchBudget(num_codes_k, codebook_size) if budget == "batch" else None
        self.num_slots = num_codes_k if self.budget is None else self.budget.num_slots
        self.sampled = False
        self.prior = UsagePrior(codebook_size, prior) if prior else None

    @abstractmethod
    def forward(
        self,
        x: Float[Tensor, "batch pos d_group"],
        temperature: Float[Tensor, "#batch #pos"],
        *,
        override: Edit | None = None,
        positions: Int[Tensor, " pos"] | None = None,
        entropy: bool = False,
    ) -> BottleneckOutput:
        """The codes' sum in place of `x`; with `entropy`, also that of the whole assignment."""

    @property
    def samples(self) -> bool:
        """Whether training chooses by chance."""
        return False

    @property
    def noisy(self) -> bool:
        """Whether the choice at hand is one by chance."""
        return self.samples and (self.training or self.sampled)

    def noise_floor(self, temperature: float) -> float:
        """Entropy, in nats, of the assignment of training if all codes were alike to it."""
        return math.log(self.codebook_size)

    def residuals(self, x: Tensor) -> Iterator[tuple[int, Float[Tensor, "n d_group"]]]:
        with torch.no_grad():
            yield 0, self.project(x).flatten(0, -2)

    def note(
        self,
        inputs: Float[Tensor, "n d_group"],
        indices: Int[Tensor, "n k"],
        weights: Float[Tensor, "n k"] | None = None,
    ) -> None:
        """Count training choices for `end_round`; slots of weight 0 are none."""
        chosen = indices.flatten()
        used = torch.ones_like(chosen) if weights is None else (weights.flatten() > 0).long()
        self.round_counts[0].index_add_(0, chosen, used)
        if self.average is not None:
            points = inputs.detach().repeat_interleave(indices.shape[-1], 0)
            self.average.round_sums[0].index_add_(0, chosen, points * used[:, None])

    def begin_round(self, progress: float) -> None:
        super().begin_round(progress)
        if self.prior is not None:
            self.prior.begin_round(progress)

    @torch.no_grad()
    def end_round(self, skip: Bool[Tensor, ""]) -> None:
        before = self.counts.clone()
        super().end_round(skip)
        if self.budget is not None:
            self.budget.end_round(skip)
        if self.prior is not None:
            self.prior.end_round((self.counts - before)[0])

    def weights(self, indices: Int[Tensor, "*axes k"]) -> Float[Tensor, "*axes k"] | None:
        """Of every slot, where their number differs by position; else None."""
        if self.budget is None:
            return None
        used = self.budget.used(indices).to(self.codes.dtype)
        return used / used.sum(-1, keepdim=True) if self.aggregate == "mean" else used

    def hard(
        self, indices: Int[Tensor, "*axes k"], weights: Float[Tensor, "*axes k"] | None = None
    ) -> Float[Tensor, "*axes d_group"]:
        """What these codes leave as; differentiable in them, and in them alone."""
        chosen = F.embedding(indices, self.codes[0])
        if weights is None:
            return chosen.sum(-2) * self.share
        return (chosen * weights[..., None]).sum(-2)

    def contributions(self) -> Float[Tensor, "1 codebook_size d_group"]:
        return self.codes.detach() * self.share

    def edited(
        self,
        indices: Int[Tensor, "batch pos k"],
        inputs: Float[Tensor, "batch pos d_group"],
        temperature: Float[Tensor, "#batch #pos"],
        override: Edit,
        positions: Int[Tensor, " pos"] | None,
    ) -> Int[Tensor, "batch pos k"]:
        """What the edit makes of a choice."""
        if positions is None:
            positions = torch.arange(inputs.shape[1], device=inputs.device)
        return override(Choice(indices, positions, partial(self._without, inputs, temperature)))

    def bias(self) -> Float[Tensor, "1 codebook_size"] | None:
        """What is added to similarities because of how often codes are used."""
        return None if self.prior is None else self.prior.bias()[None]

    def similarities(self, points: Float[Tensor, "n d_group"]) -> Float[Tensor, "n codebook_size"]:
        """Of every point to every code, in fp32: cosines or inner products, and the bias."""
        codes = F.normalize(self.codes[0], dim=-1) if self.cosine else self.codes[0]
        points = F.normalize(points, dim=-1) if self.cosine else points
        with torch.autocast(points.device.type, enabled=False):
            alike = points.float() @ codes.mT
        bias = self.bias()
        return alike if bias is None else alike + bias

    def select(self, level: int, points: Float[Tensor, "n d_group"]) -> Int[Tensor, " n"]:
        coding = top_k_coding(
            points.detach()[None], self.codes.detach(), 1,
            bias=self.bias(), similarity="cosine" if self.cosine else "dot",
        )  # fmt: skip
        return coding.indices[0, :, 0]

    def _set_codes(self, level: int, which: Tensor, values: Tensor) -> None:
        super()._set_codes(level, which, values)
        if self.prior is not None:
            self.prior.restart(which)

    @torch.no_grad()
    def _without(
        self,
        inputs: Float[Tensor, "batch pos d_group"],
        temperature: Float[Tensor, "#batch #pos"],
        banned: Bool[Tensor, "1 codebook_size"],
    ) -> Int[Tensor, "batch pos k"]:
        scores = self.similarities(inputs.flatten(0, -2)).masked_fill(banned, float("-inf"))
        order = scores.sort(dim=-1, descending=True, stable=True)
        indices = order.indices[:, : self.num_slots].unflatten(0, inputs.shape[:-1])
        if self.budget is None:
            return indices
        best = order.values[:, : self.num_slots].unflatten(0, inputs.shape[:-1])
        used = self.budget.passing(best / temperature[..., None])
        return torch.where(used, indices, indices[..., :1])
