"""The bottleneck of Codebook Features (Tamkin et al. 2023, arXiv:2310.17230, section 2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.contract import Codes, Edit
from crystalline.quantizers.bottlenecks.base import Aggregate, Bottleneck, BottleneckOutput
from crystalline.quantizers.bottlenecks.prior import Prior
from crystalline.quantizers.codebook import Update
from crystalline.quantizers.top_k import top_k_coding


class CodebookFeatures(Bottleneck):
    """The k codes of largest cosine to the normalised input, as their sum or mean.

    No noise and no temperature. The gradient passes to the normalised input unchanged; chosen codes
    receive the prediction's gradient and that of `codebook`, |out - sg input|^2 summed over
    channels, whose purpose is to stop their lengths from growing. `commitment`, |input - sg out|^2
    / d, pulls inputs to codes; the paper leaves them alone (its weight there is 0). The paper sums,
    its released code takes the mean.

    Args:
        d_group: Width of what passes.
        codebook_size: C.
        num_codes_k: k.
        aggregate: "mean" or "sum".
        update: Who moves the codes.
        budget: k codes a "position", or on average over the "batch".
        prior: What rare codes cost; see `UsagePrior`.
    """

    def __init__(
        self,
        d_group: int,
        codebook_size: int,
        num_codes_k: int,
        *,
        aggregate: Aggregate = "mean",
        update: Update = "gradient",
        budget: str = "position",
        prior: Prior | None = None,
    ) -> None:
        super().__init__(
            d_group, codebook_size, num_codes_k,
            aggregate=aggregate, update=update, budget=budget, prior=prior,
        )  # fmt: skip
        self.norm = nn.LayerNorm(d_group)

    def project(self, x: Tensor) -> Float[Tensor, "*axes d_group"]:
        with torch.autocast(x.device.type, enabled=False):
            n = F.layer_norm(x.to(self.norm.weight.dtype), self.norm.normalized_shape)
            # Apart, or the gradient of so few weights takes a GPU longer than all else here.
            return n * self.norm.weight + self.norm.bias

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
        coding = top_k_coding(
            n.detach().flatten(0, -2)[None], self.codes.detach(), self.num_slots,
            bias=self.bias(), assignment=entropy,
        )  # fmt: skip
        indices = coding.indices[0]
        if self.budget is not None:
            indices = self.budget(indices, coding.logits[0], coding.logits[0])
        indices = indices.view(*x.shape[:2], -1)
        if override is not None:
            indices = self.edited(indices, n, n.new_ones(1, 1), override, positions)
        weights = self.weights(indices)
        hard = self.hard(indices, weights)
        losses = {}
        if self.training:
            slots = None if weights is None else weights.flatten(0, -2)
            self.note(n.flatten(0, -2), indices.flatten(0, -2), slots)
            losses["codebook"] = (hard - n.detach()).square().sum(-1).mean()
            losses["commitment"] = (n - hard.detach()).square().mean()
        found = None if coding.entropy is None else coding.entropy.view(x.shape[:2])
        codes = Codes(indices, self.codebook_size, shared=True, weights=weights, entropy=found)
        return BottleneckOutput((hard + n - n.detach()).to(x.dtype), n, codes, losses)
