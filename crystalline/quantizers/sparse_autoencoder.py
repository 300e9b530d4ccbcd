"""A sparse autoencoder whose latents are codes (Gao et al. 2024, arXiv:2406.04093)."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from crystalline.contract import Choice, Codes, Edit
from crystalline.layers.precision import at_least_fp32
from crystalline.quantizers.bottlenecks.base import Bottleneck, BottleneckOutput
from crystalline.quantizers.standardiser import Standardiser

_DECAY = 0.9  # share of a latent's old usual strength that a round keeps


class SparseAutoencoder(Bottleneck):
    """k of K directions, each with a strength of its own, in place of a vector.

        n = (x - mean) / scale                      running statistics of the inputs
        s = W_enc (n - b_pre) + b_enc
        z = relu(s) at the chosen latents, 0 elsewhere
        out = scale (z W_dec + b_pre) + mean        rows of W_dec have length 1

    Chosen are the k largest s of a position (TopK), or k on average over the batch and 1 to 2k each
    (BatchTopK, Bussmann et al. 2024, arXiv:2412.06410; see `BatchBudget`). Loss `reconstruction` is
    the mean over elements of (n^ - n)^2, hence about the share of variance that is lost. Loss
    `dead` (AuxK of Gao et al.) is the same for what is left, n - n^, reconstructed by the d/2
    strongest of the latents that are dead; 0 while none is.

    Codes are the latents, weights their strengths z. An edit says only which latents are active:
    one that the position would choose itself has its own strength there, one that is brought in has
    its usual one, a running mean over the positions that chose it.

    Args:
        d_group: Width d of what passes.
        codebook_size: K.
        num_codes_k: k.
        budget: "position" (TopK) or "batch" (BatchTopK; with k = 1 there is nothing to share).
        dead_positions: A latent is dead when it was not chosen for this many training choices.

    Raises:
        ValueError: If k lies outside [1, K], 2k is above K with `budget="batch"` and k > 1,
            `dead_positions` is below 1, or an option is unknown.
    """

    usual: Float[Tensor, " codebook_size"]
    """Usual strength of each latent; 0 until it is chosen."""
    round_strengths: Float[Tensor, " codebook_size"]

    def __init__(
        self,
        d_group: int,
        codebook_size: int,
        num_codes_k: int,
        budget: str = "batch",
        dead_positions: int = 100_000,
    ) -> None:
        shared = budget if num_codes_k > 1 or budget != "batch" else "position"
        super().__init__(
            d_group, codebook_size, num_codes_k, aggregate="sum", cosine=False, budget=shared
        )
        if dead_positions < 1:
            raise ValueError(f"dead_positions must be at least 1, got {dead_positions}")
        self.maintained = False  # loss `dead` looks after dead latents; k-means would undo W_enc
        self.dead_positions = dead_positions
        self.num_dead_k = min(codebook_size, max(1, d_group // 2))
        self.standardiser = Standardiser(d_group)
        with torch.no_grad():
            self.codes.copy_(F.normalize(self.codes, dim=-1))
        self.encoder = nn.Parameter(self.codes[0].detach().clone())
        self.encoder_bias = nn.Parameter(torch.zeros(codebook_size))
        self.pre_bias = nn.Parameter(torch.zeros(d_group))
        self.register_buffer("usual", torch.zeros(codebook_size))
        self.register_buffer("round_strengths", torch.zeros(codebook_size), persistent=False)

    def project(self, x: Tensor) -> Float[Tensor, "*axes d_group"]:
        return at_least_fp32(x)

    def similarities(self, points: Float[Tensor, "n d_group"]) -> Float[Tensor, "n codebook_size"]:
        """The scores s of every latent."""
        return F.linear(points - self.pre_bias, self.encoder, self.encoder_bias)

    def forward(
        self,
        x: Float[Tensor, "batch pos d_group"],
        temperature: Float[Tensor, "#batch #pos"],
        *,
        override: Edit | None = None,
        positions: Int[Tensor, " pos"] | None = None,
        entropy: bool = False,
    ) -> BottleneckOutput:
        assert self.standardiser is not None
        with torch.autocast(x.device.type, enabled=False):
            n = self.standardiser(self.project(x))
            points = n.flatten(0, -2)
            scores = self.similarities(points)
            best = scores.detach().topk(self.num_slots)
            indices = best.indices
            if self.budget is not None:
                indices = self.budget(indices, best.values, best.values)
            indices, strengths = _tidy(indices, scores.gather(-1, indices).relu())
            if override is not None:
                asked = indices.unflatten(0, x.shape[:2])
                indices, strengths = self._edited(asked, n, scores, override, positions)
            rebuilt = self._decode(indices, strengths) + self.pre_bias
            losses = {}
            if self.training:
                self.note(points, indices, strengths)
                losses = self._losses(points, rebuilt, scores)
            codes = Codes(
                indices.unflatten(0, x.shape[:2]), self.codebook_size, shared=True,
                weights=strengths.detach().unflatten(0, x.shape[:2]),
            )  # fmt: skip
            restored = self.standardiser.restore(rebuilt.view_as(n)).to(x.dtype)
        return BottleneckOutput(restored, n, codes, losses)

    @torch.no_grad()
    def contributions(self) -> Float[Tensor, "1 codebook_size d_group"]:
        """Of each latent at its usual strength."""
        assert self.standardiser is not None
        rows = F.normalize(self.codes, dim=-1) * self.usual[:, None]
        return self.standardiser.restore(rows) - self.standardiser.restore(torch.zeros_like(rows))

    def note(self, inputs: Tensor, indices: Tensor, weights: Tensor | None = None) -> None:
        super().note(inputs, indices, weights)
        assert weights is not None
        self.round_strengths.index_add_(0, indices.flatten(), weights.detach().flatten())

    @torch.no_grad()
    def end_round(self, skip: Bool[Tensor, ""]) -> None:
        """As every codebook; also the usual strengths, and rows of length 1 again."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.round_strengths)
        before = self.counts[0].clone()
        super().end_round(skip)
        chosen = self.counts[0] - before  # none with `skip`
        mean = self.round_strengths / chosen.clamp(min=1)
        moved = torch.where(self.usual > 0, torch.lerp(mean, self.usual, _DECAY), mean)
        self.usual.copy_(torch.where(chosen > 0, moved, self.usual))
        self.round_strengths.zero_()
        self.codes.copy_(F.normalize(self.codes, dim=-1))

    def _decode(
        self, indices: Int[Tensor, "n slots"], strengths: Float[Tensor, "n slots"]
    ) -> Float[Tensor, "n d_group"]:
        """The product z W_dec; rows have length 1 in it, so no gradient goes along a row."""
        z = strengths.new_zeros(len(indices), self.codebook_size)
        return z.scatter_add(-1, indices, strengths) @ F.normalize(self.codes[0], dim=-1)

    def _losses(
        self,
        n: Float[Tensor, "n d_group"],
        rebuilt: Float[Tensor, "n d_group"],
        scores: Float[Tensor, "n codebook_size"],
    ) -> dict[str, Float[Tensor, ""]]:
        dead = self.idle[0] >= self.dead_positions
        strongest = scores.masked_fill(~dead, float("-inf")).topk(self.num_dead_k)
        left = (n - rebuilt).detach()
        helped = self._decode(strongest.indices, strongest.values.relu())
        return {
            "reconstruction": (rebuilt - n).square().mean(),
            "dead": (helped - left).square().mean() * dead.any(),
        }

    def _edited(
        self,
        indices: Int[Tensor, "batch pos slots"],
        n: Float[Tensor, "batch pos d_group"],
        scores: Float[Tensor, "n codebook_size"],
        override: Edit,
        positions: Int[Tensor, " pos"] | None,
    ) -> tuple[Int[Tensor, "n slots"], Float[Tensor, "n slots"]]:
        """Latents that an edit makes active, and their strengths."""
        own = [indices]

        def without(banned: Tensor) -> Tensor:
            found = self._without(n, n.new_ones(1, 1), banned).flatten(0, -2)
            found, _ = _tidy(found, scores.gather(-1, found).relu())
            own.append(found.view_as(indices))
            return own[-1]

        if positions is None:
            positions = torch.arange(n.shape[1], device=n.device)
        edited = override(Choice(indices, positions, without))
        is_own = (edited[..., None] == torch.cat(own, -1)[..., None, :]).any(-1).flatten(0, -2)
        edited = edited.flatten(0, -2)
        strengths = torch.where(is_own, scores.gather(-1, edited).relu(), self.usual[edited])
        return _tidy(edited, strengths)


def _tidy(
    indices: Int[Tensor, "n slots"], strengths: Float[Tensor, "n slots"]
) -> tuple[Int[Tensor, "n slots"], Float[Tensor, "n slots"]]:
    """Slots without strength, or with a latent that an earlier slot has, repeat the first one."""
    again = (indices[..., :, None] == indices[..., None, :]).tril(-1).any(-1)
    used = (strengths > 0) & ~again
    return torch.where(used, indices, indices[..., :1]), strengths * used
