"""The Crystalline bottleneck as the seed wrote it, defects included (spec sections 2 and 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.contract import Codes, Edit
from crystalline.quantizers.bottlenecks.base import Bottleneck, BottleneckOutput
from crystalline.quantizers.bottlenecks.chunked import draw_seed, gumbel_noise
from crystalline.quantizers.bottlenecks.noise_floor import gumbel_entropy
from crystalline.quantizers.codebook import Update


class ClampedTemperature(nn.Module):
    """max(raw, minimum): below the minimum it has no gradient and never comes back (defect P5)."""

    learned = True

    def __init__(self, init: float, minimum: float) -> None:
        super().__init__()
        self.minimum = minimum
        self.raw = nn.Parameter(torch.tensor([init]))

    def begin_round(self, progress: float) -> None:
        """Nothing is scheduled."""

    def summary(self) -> Float[Tensor, " one"]:
        """The temperature that is in force."""
        return self.raw.detach().clamp(min=self.minimum)

    def forward(
        self, inputs: Float[Tensor, "batch pos groups d_group"]
    ) -> Float[Tensor, "1 1 groups"]:
        return self.raw.clamp(min=self.minimum).expand(1, 1, inputs.shape[-2])


class SourceBottleneck(Bottleneck):
    """out = gain * h C with h = m - sg(s) + s, s = softmax((x C^T + noise) / tau), m its k largest.

    The temperature cannot change what is chosen (P1), the compression loss mean H(s) is the noise's
    own entropy (P3) and always cools (P2), the surrogate is k times too small (P6), codes have no
    loss of their own (P8). Evaluation has no noise. Codes start at N(0, 1), not at the data, and
    are not revived.

    Args:
        d_group: Width of what passes.
        codebook_size: K.
        num_codes_k: k.
        update: Who moves the codes.
    """

    def __init__(
        self, d_group: int, codebook_size: int, num_codes_k: int, *, update: Update = "gradient"
    ) -> None:
        super().__init__(
            d_group, codebook_size, num_codes_k, aggregate="sum", cosine=False, update=update
        )
        self.gain = nn.Parameter(torch.ones(()))
        self.maintained = False

    @property
    def samples(self) -> bool:
        return True

    def noise_floor(self, temperature: float) -> float:
        return gumbel_entropy(self.codebook_size, temperature)

    def contributions(self) -> Float[Tensor, "1 codebook_size d_group"]:
        return super().contributions() * self.gain.detach()

    def project(self, x: Tensor) -> Float[Tensor, "*axes d_group"]:
        return x.to(torch.promote_types(x.dtype, torch.float32))

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
        with torch.autocast(x.device.type, enabled=False):
            logits = n @ self.codes[0].mT
            noisy = logits
            if self.noisy:
                rows = logits.shape[:-1].numel()
                noise = gumbel_noise(draw_seed(x.device), 0, rows, self.codebook_size)
                noisy = logits + noise.view_as(logits)
            log_s = (noisy / temperature[..., None]).log_softmax(-1)
            s = log_s.exp()
            indices = log_s.detach().topk(self.num_codes_k, dim=-1).indices
            if override is not None:
                indices = self.edited(indices, n, temperature, override, positions)
            mask = torch.zeros_like(s).scatter_(-1, indices, 1.0)
            hard = self.gain * (mask - s.detach() + s) @ self.codes[0]
            uncertainty = -(s * log_s).sum(-1)
        losses = {}
        if self.training:
            self.note(n.flatten(0, -2), indices.flatten(0, -2))
            losses = {
                "compression": uncertainty.mean(),
                "commitment": F.mse_loss(n, hard.detach()),
            }
        codes = Codes(
            indices, self.codebook_size, shared=True, entropy=uncertainty.detach(),
            temperature=temperature.detach(),
        )  # fmt: skip
        return BottleneckOutput(hard.to(x.dtype), n, codes, losses)
