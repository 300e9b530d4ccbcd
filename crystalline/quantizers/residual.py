"""Residual vector quantization: each level codes what the levels before it left over.

Zeghidour et al. 2021 (SoundStream, arXiv:2107.03312), with the options that keep codes alive.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from crystalline.contract import Choice, Edit
from crystalline.layers.precision import at_least_fp32
from crystalline.quantizers.codebook import QuantizerOutput, Update
from crystalline.quantizers.coding import residual_coding
from crystalline.quantizers.estimators import ESTIMATORS, Estimator
from crystalline.quantizers.projected import ProjectedCodebook
from crystalline.quantizers.search import nearest
from crystalline.ramp import ramp


class ResidualQuantizer(ProjectedCodebook):
    """Sums one code from each of L books: r_0 = x, q_l = nearest code to r_l, r_{l+1} = r_l - q_l.

    The subtraction holds the code constant, so a level is trained on its own residual alone. Codes
    receive the codebook loss and nothing else; x receives the estimator's gradient and the
    commitment loss.

    Args:
        d_model: Width of the output, and of the input unless `d_input` says otherwise.
        codebook_size: K, codes per level.
        num_codebooks: L, levels.
        codebook_dim: Width of the codes; unless it is d_model, a linear map leads there (its output
            normalised, or the encoder could shrink its way out of the losses) and another one back.
        estimator: How the gradient passes the choice.
        similarity: "euclidean" or "cosine".
        update: Who moves the codes: "gradient", "ema" or "frozen".
        ema_decay: For update "ema".
        level_dropout: Share of the training sequences that use only a random prefix of the levels,
            so that the first ones mean something alone.
        warmup: Share of training over which what leaves the quantizer turns from the input into the
            codes, linearly, and the commitment loss sets in: a young network that is rounded learns
            to say little. Evaluation always rounds.
        standardise: Whether inputs are brought to mean 0 and unit scale for coding.
        restore: Whether that is undone afterwards. If not, what leaves differs from input to input
            as much as codes do, however little inputs differ; their gradient then skips the
            division, which would make it huge.
        d_input: Width of the input; given, the two linear maps are there whatever their widths.

    Raises:
        ValueError: If a choice is unknown or a share lies outside [0, 1].
    """

    rounding: Float[Tensor, ""]
    """How far outputs are on their way from the input (0) to the codes (1), in training."""

    def __init__(
        self,
        d_model: int,
        codebook_size: int = 1024,
        num_codebooks: int = 4,
        codebook_dim: int | None = None,
        *,
        estimator: Estimator = "straight_through",
        similarity: Literal["euclidean", "cosine"] = "euclidean",
        update: Update = "gradient",
        ema_decay: float = 0.99,
        level_dropout: float = 0.0,
        warmup: float = 0.0,
        standardise: bool = False,
        restore: bool = True,
        d_input: int | None = None,
    ) -> None:
        if estimator not in ESTIMATORS:
            raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}")
        if similarity not in ("euclidean", "cosine"):
            raise ValueError(f"similarity must be euclidean or cosine, got {similarity!r}")
        for name, share in {"level_dropout": level_dropout, "warmup": warmup}.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {share}")
        width = codebook_dim or d_model
        super().__init__(
            codebook_size,
            width,
            num_codebooks,
            cosine=similarity == "cosine",
            update=update,
            ema_decay=ema_decay,
            standardise=standardise,
        )
        self.estimator = estimator
        self.level_dropout = level_dropout
        self.warmup = warmup
        self.restore = restore
        self.register_buffer("rounding", torch.ones(()), persistent=False)
        mapped = d_input is not None or width != d_model
        self.project_in = nn.Linear(d_input or d_model, width, bias=False) if mapped else None
        self.project_out = nn.Linear(width, d_model, bias=False) if mapped else None

    def code(
        self,
        target: Float[Tensor, "batch pos codebook_dim"],
        override: Edit | None,
        positions: Int[Tensor, " pos"] | None,
    ) -> QuantizerOutput:
        target = self._standardised(target)
        coding = residual_coding(
            target.flatten(0, -2), self.codes, cosine=self.cosine, statistics=self.training
        )
        if self.training:
            self.observe(coding)
        indices = coding.indices.unflatten(0, target.shape[:-1])
        quantized = coding.quantized.view_as(target)
        losses = {"codebook": coding.codebook, "commitment": coding.commitment}
        if override is not None:
            if positions is None:
                positions = torch.arange(target.shape[1], device=target.device)
            indices = override(Choice(indices, positions, partial(self._recode, target)))
            quantized = self.lookup(indices).detach().sum(-2)
        keep = self._kept_levels(target)
        if keep is not None:
            quantized = (self.lookup(indices).detach() * keep).sum(-2)
        if self.training and self.warmup:
            quantized = torch.lerp(target.detach(), quantized, self.rounding)
            losses["commitment"] = losses["commitment"] * self.rounding
        return QuantizerOutput(ESTIMATORS[self.estimator](target, quantized), indices, losses)

    def as_output(self, code: Float[Tensor, "*axes codebook_dim"]) -> Float[Tensor, "*axes d"]:
        if self.standardiser is not None and self.restore:
            with torch.autocast(code.device.type, enabled=False):
                code = self.standardiser.restore(code)
        return code if self.project_out is None else self.project_out(code)

    @torch.no_grad()
    def _recode(
        self,
        target: Float[Tensor, "batch pos codebook_dim"],
        banned: Bool[Tensor, "levels codebook_size"],
    ) -> Int[Tensor, "batch pos levels"]:
        """Indices by the books without some codes."""
        points, chosen = target.flatten(0, -2), []
        for book, out in zip(self.codes, banned, strict=True):
            chosen.append(nearest(points, book, cosine=self.cosine, banned=out))
            points = points - book[chosen[-1]]
        return torch.stack(chosen, -1).unflatten(0, target.shape[:-1])

    def residuals(self, x: Tensor) -> Iterator[tuple[int, Float[Tensor, "n codebook_dim"]]]:
        with torch.no_grad():
            points = self._standardised(self.project(x)).flatten(0, -2)
            for level in range(self.num_codebooks):
                yield level, points
                points = points - self.codes[level][self.select(level, points)]

    def begin_round(self, progress: float) -> None:
        if self.warmup:
            self.rounding.fill_(ramp(progress, 0.0, self.warmup))

    def project(self, x: Tensor) -> Float[Tensor, "*axes codebook_dim"]:
        target = x if self.project_in is None else self.project_in(x)
        target = at_least_fp32(target)
        if self.project_in is None:
            return target
        return F.layer_norm(target, (self.codebook_dim,))

    def _standardised(
        self, target: Float[Tensor, "*axes codebook_dim"]
    ) -> Float[Tensor, "*axes codebook_dim"]:
        if self.standardiser is None:
            return target
        standard = self.standardiser(target)
        return standard if self.restore else target + (standard - target).detach()

    def _kept_levels(self, target: Tensor) -> Float[Tensor, "batch 1 levels 1"] | None:
        if not self.training or self.level_dropout == 0:
            return None
        batch, levels = len(target), self.num_codebooks
        used = torch.randint(1, levels + 1, (batch,), device=target.device)
        whole = torch.rand(batch, device=target.device) >= self.level_dropout
        used = torch.where(whole, levels, used)
        keep = torch.arange(levels, device=target.device) < used[:, None]
        return keep[:, None, :, None].to(target.dtype)
