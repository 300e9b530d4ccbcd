"""The Crystalline bottleneck: a learned temperature decides how sharply codes are chosen."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributed.nn.functional import all_reduce

from crystalline.contract import Codes, Edit
from crystalline.quantizers.bottlenecks.assignment import Assignment, assign_in_chunks
from crystalline.quantizers.bottlenecks.base import (
    Aggregate,
    Bottleneck,
    BottleneckOutput,
    unit_rms,
)
from crystalline.quantizers.bottlenecks.mean_assignment import MeanAssignment
from crystalline.quantizers.bottlenecks.noise_floor import gumbel_entropy
from crystalline.quantizers.bottlenecks.prior import Prior
from crystalline.quantizers.codebook import Update
from crystalline.quantizers.estimators import rotation
from crystalline.quantizers.top_k import TopKCoding, top_k_coding

Estimator = Literal["hybrid", "gumbel_ste", "input_ste", "rotation", "soft"]
ESTIMATORS = ("hybrid", "gumbel_ste", "input_ste", "rotation", "soft")


class CrystallineBottleneck(Bottleneck):
    """out = share * sum of the k codes with the largest cos(n, c_j) / tau + noise_j.

    n is x divided by its root mean square; share is 1/k ("mean") or 1 ("sum"). The temperature
    divides the similarity and not the noise, so it matters: selection follows Plackett-Luce with
    weights exp(cos / tau) (spec section 4; the seed's order makes tau irrelevant, defect P1).
    Evaluation has no noise. With sigma = min(1, k softmax(cos / tau + noise)), whose value never
    shows, and sg a constant copy, the gradient is that of

        hybrid      sum of (m_j + sigma_j - sg sigma_j) c_j, sigma made of sg n, plus n - sg n
        gumbel_ste  the same with sigma made of n, without n - sg n
        input_ste   sum of m_j c_j plus n - sg n: no path to tau
        rotation    sum of m_j c_j, and to n as n is turned and scaled into the output
        soft        sum of sigma_j c_j, in value too: no hard step (an ablation)

    Losses, means over positions: `codebook` |out - sg n|^2, `commitment` |n - sg out|^2 / d, and
    `compression` = (H(p) - usage_weight * H(mean p)) / ln K with p = softmax(cos / tau): codes sure
    at each position, and all of them used. Where a batch has fewer than 10 K choices, mean p is
    that of the latest rounds (`MeanAssignment`). With usage_weight = 0 it is the seed's, whose
    minimum is one code for everything (P7).

    Args:
        d_group: Width of what passes.
        codebook_size: K.
        num_codes_k: k.
        aggregate: "mean" or "sum".
        estimator: One of the above.
        noise: Whether training adds Gumbel noise.
        usage_weight: Weight of the usage term (gamma).
        usage_floor: The usage term stops pulling when H(mean p) / ln K is above this.
        update: Who moves the codes.
        budget: k codes a "position", or on average over the "batch"; the surrogate keeps k and 1/k.
        prior: What rare codes cost, added to cos; see `UsagePrior`.

    Raises:
        ValueError: If an option is unknown, or there is a budget for an estimator without choice.
    """

    def __init__(
        self,
        d_group: int,
        codebook_size: int,
        num_codes_k: int,
        *,
        aggregate: Aggregate = "mean",
        estimator: Estimator = "hybrid",
        noise: bool = True,
        usage_weight: float = 1.0,
        usage_floor: float = 1.0,
        update: Update = "gradient",
        budget: str = "position",
        prior: Prior | None = None,
    ) -> None:
        if estimator not in ESTIMATORS:
            raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}")
        if estimator == "soft" and budget == "batch":
            raise ValueError("budget=batch needs a choice: set estimator to another than soft")
        super().__init__(
            d_group, codebook_size, num_codes_k,
            aggregate=aggregate, cosine=True, update=update, budget=budget,
            prior=prior,
        )  # fmt: skip
        self.estimator = estimator
        self.noise = noise
        self.usage_weight = usage_weight
        self.usage_floor = usage_floor
        self.mean_assignment = MeanAssignment(codebook_size, num_codes_k)

    @property
    def samples(self) -> bool:
        return self.noise

    def noise_floor(self, temperature: float) -> float:
        """Noise stands beside similarity / tau, undivided: the floor has temperature 1."""
        if not self.noise:
            return super().noise_floor(temperature)
        return gumbel_entropy(self.codebook_size, 1.0)

    def project(self, x: Tensor) -> Float[Tensor, "*axes d_group"]:
        return unit_rms(x)

    def forward(
        self,
        x: Float[Tensor, "batch pos d_group"],
        temperature: Float[Tensor, "#batch #pos"],
        *,
        override: Edit | None = None,
        positions: Int[Tensor, " pos"] | None = None,
        entropy: bool = False,
    ) -> BottleneckOutput:
        n = self.project(x)
        if self.training or self.noisy or self.estimator == "soft":
            assignment = self._assign(n, temperature)
            indices, scores = assignment.indices, assignment.scores
            uncertainty = assignment.entropy.detach()
        else:
            assignment = None
            coding = self._choose(n, temperature, entropy)
            indices, scores = coding.indices[0], coding.logits[0]
            uncertainty = None if coding.entropy is None else coding.entropy[0]
        if self.budget is not None:
            noiseless = self._choose(n, temperature, False).logits[0] if self.noisy else scores
            indices = self.budget(indices, scores, noiseless, shared=self.noisy)
        chosen = indices = indices.view(*x.shape[:-1], -1)
        if override is not None:
            indices = self.edited(indices, n, temperature, override, positions)
        weights = self.weights(indices)
        with torch.autocast(x.device.type, enabled=False):
            hard = self.hard(indices, weights)
            out = self._estimate(n, hard, assignment)
            if self.estimator == "soft" and override is not None:  # 0 where nothing was edited
                out = out + (hard - self.hard(chosen))
            losses = {}
            if self.training and assignment is not None:
                losses = self._losses(n, hard, assignment)
        if self.training:
            slots = None if weights is None else weights.flatten(0, -2)
            self.note(n.flatten(0, -2), indices.flatten(0, -2), slots)
        codes = Codes(
            indices, self.codebook_size, shared=True, weights=weights,
            entropy=None if uncertainty is None else uncertainty.view(x.shape[:-1]),
            temperature=temperature.detach(),
        )  # fmt: skip
        return BottleneckOutput(out.to(x.dtype), n, codes, losses)

    def _assign(self, n: Tensor, temperature: Tensor) -> Assignment:
        points = F.normalize(n, dim=-1).flatten(0, -2)
        tau = temperature.expand(*n.shape[:2]).flatten()[:, None]
        if temperature.numel() == 1:
            tau = temperature.view(1, 1)
        book = self.codes[0]
        unit = F.normalize(book, dim=-1)
        return assign_in_chunks(
            book, unit, points, tau, self.num_codes_k,
            noise=self.noisy, detached=self.estimator == "hybrid",
            slots=self.num_slots, bias=self.bias(),
        )  # fmt: skip

    @torch.no_grad()
    def _choose(self, n: Tensor, temperature: Tensor, entropy: bool) -> TopKCoding:
        scale = (1 / temperature).expand(n.shape[:2]).reshape(1, -1)
        return top_k_coding(
            n.flatten(0, -2)[None], self.codes.detach(), self.num_slots,
            scale=scale, bias=self.bias(), assignment=entropy,
        )  # fmt: skip

    def _estimate(self, n: Tensor, hard: Tensor, assignment: Assignment | None) -> Tensor:
        if assignment is None:
            # In evaluation too a gradient may be asked for: where would another code lead?
            passes = n.requires_grad and self.estimator in ("hybrid", "input_ste", "rotation")
            return hard + _silent(n) if passes else hard
        soft = self.share * assignment.surrogate.view_as(n)
        if self.estimator == "soft":
            return soft
        if self.estimator == "rotation":
            return hard + _silent(rotation(n, hard.detach()))
        out = hard
        if self.estimator in ("hybrid", "gumbel_ste"):
            out = out + _silent(soft)
        if self.estimator in ("hybrid", "input_ste"):
            out = out + _silent(n)
        return out

    def init_from_data(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        super().init_from_data(x, generator)
        self.mean_assignment.restart()

    def end_round(self, skip: Bool[Tensor, ""]) -> None:
        super().end_round(skip)
        self.mean_assignment.end_round(skip)

    def _losses(self, n: Tensor, hard: Tensor, assignment: Assignment) -> dict[str, Tensor]:
        error = hard - n.detach()
        mean, processes = _over_processes(assignment.mean)
        mean = self.mean_assignment(mean, processes * n.shape[:-1].numel())
        # A share that has underflowed to 0 has an infinite slope.
        usage = torch.special.entr(mean.clamp(min=torch.finfo(mean.dtype).tiny)).sum()
        scale = math.log(max(2, self.codebook_size))
        usage = (usage / scale).clamp(max=self.usage_floor)
        return {
            "compression": assignment.entropy.mean() / scale - self.usage_weight * usage,
            "codebook": error.square().sum(-1).mean(),
            "commitment": (n - hard.detach()).square().mean(),
        }


def _silent(x: Tensor) -> Tensor:
    """The gradient of x, the value 0."""
    return x - x.detach()


def _over_processes(mean: Tensor) -> tuple[Tensor, int]:
    """The mean over all processes, equally large and differentiable in each, and their number."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return all_reduce(mean) / dist.get_world_size(), dist.get_world_size()
    return mean, 1
