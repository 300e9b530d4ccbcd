"""What all quantizers share: the codes, how they are chosen, counted, started and revived."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from crystalline.layers.precision import at_least_fp32
from crystalline.quantizers.coding import Coding
from crystalline.quantizers.kmeans import kmeans
from crystalline.quantizers.moving_average import MovingAverage
from crystalline.quantizers.relocation import costs, fit, gains
from crystalline.quantizers.search import exact_products, nearest
from crystalline.quantizers.standardiser import Standardiser

Update = Literal["gradient", "ema", "frozen"]


@dataclass(frozen=True)
class QuantizerOutput:
    """What every quantizer returns."""

    quantized: Float[Tensor, "batch pos d_model"]
    """The chosen codes' sum; its gradient reaches the input by the estimator, never the codes."""
    indices: Int[Tensor, "batch pos k"]
    """int64; the code chosen at each level."""
    losses: dict[str, Float[Tensor, ""]]
    """"codebook" pulls codes to inputs, "commitment" inputs to codes; means over all elements."""


class Codebook(nn.Module, ABC):
    """`num_codebooks` books of `codebook_size` codes each; a site of the contract.

    Args:
        codebook_size: K, codes per book.
        codebook_dim: Width of a code.
        num_codebooks: L, books (levels of a residual quantizer).
        cosine: Choose by direction alone instead of by Euclidean distance.
        update: "gradient" (an optimizer's business), "ema" (running means of the inputs that chose
            each code) or "frozen".
        ema_decay: Share of the old mean kept in each round, for "ema".
        standardise: Whether inputs are brought to mean 0 and unit scale; see `Standardiser`.

    Raises:
        ValueError: If a size is below 1 or `update` is unknown.
    """

    codes: nn.Parameter
    """fp32 (L, K, d); trained by gradient only if `update` says so."""
    counts: Int[Tensor, "levels codebook_size"]
    """Choices since `counts` was last cleared (who reads them clears them)."""
    idle: Int[Tensor, "levels codebook_size"]
    """Training positions since each code was last chosen."""
    round_counts: Int[Tensor, "levels codebook_size"]

    maintained: bool = True
    """Whether codes may be started from data and dead ones revived; source modes say no."""

    def __init__(
        self,
        codebook_size: int,
        codebook_dim: int,
        num_codebooks: int = 1,
        *,
        cosine: bool = False,
        update: Update = "gradient",
        ema_decay: float = 0.99,
        standardise: bool = False,
    ) -> None:
        super().__init__()
        if min(codebook_size, codebook_dim, num_codebooks) < 1:
            raise ValueError(
                "codebook_size, codebook_dim and num_codebooks must be at least 1, got "
                f"{codebook_size}, {codebook_dim}, {num_codebooks}"
            )
        if update not in ("gradient", "ema", "frozen"):
            raise ValueError(f"update must be gradient, ema or frozen, got {update!r}")
        self.codebook_size = codebook_size
        self.codebook_dim = codebook_dim
        self.num_codebooks = num_codebooks
        self.cosine = cosine
        shape = (num_codebooks, codebook_size)
        self.codes = nn.Parameter(
            torch.randn(*shape, codebook_dim), requires_grad=update == "gradient"
        )
        self.average = MovingAverage(shape, codebook_dim, ema_decay) if update == "ema" else None
        self.standardiser = Standardiser(codebook_dim) if standardise else None
        self.register_buffer("counts", torch.zeros(shape, dtype=torch.int64))
        self.register_buffer("idle", torch.zeros(shape, dtype=torch.int64))
        self.register_buffer(
            "round_counts", torch.zeros(shape, dtype=torch.int64), persistent=False
        )

    @abstractmethod
    def project(self, x: Tensor) -> Float[Tensor, "*axes codebook_dim"]:
        """Inputs in the width of the codes, fp32, before any standardiser."""

    @abstractmethod
    def residuals(self, x: Tensor) -> Iterator[tuple[int, Float[Tensor, "n codebook_dim"]]]:
        """Level by level, what it has to code; codes may be moved before the next one is asked."""

    def select(self, level: int, points: Float[Tensor, "n codebook_dim"]) -> Int[Tensor, " n"]:
        """The code of book `level` nearest to each point; no gradient."""
        return nearest(points.detach(), self.codes[level].detach(), cosine=self.cosine)

    def lookup(
        self, indices: Int[Tensor, "batch pos levels"]
    ) -> Float[Tensor, "batch pos levels codebook_dim"]:
        """The codes chosen at every level, differentiable in the codes."""
        offsets = torch.arange(self.num_codebooks, device=indices.device) * self.codebook_size
        return F.embedding(indices + offsets, self.codes.flatten(0, 1))

    def as_output(self, code: Float[Tensor, "*axes codebook_dim"]) -> Float[Tensor, "*axes d"]:
        """A vector among the codes as `forward` would return it."""
        return code

    @torch.no_grad()
    def contributions(self) -> Float[Tensor, "levels codebook_size d"]:
        """What each code adds to `quantized` in one slot, but for a constant; no gradient."""
        return self.as_output(self.codes.detach())

    def code_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters that the codebook optimizer owns."""
        if self.codes.requires_grad:
            yield "codes", self.codes

    def num_code_values(self) -> int:
        """Numbers held as codes, however they are updated."""
        return self.codes.numel()

    # What happens once a round

    def begin_round(self, progress: float) -> None:
        """Called before each training round, when a share `progress` of training is done."""

    def observe(self, coding: Coding) -> None:
        """Note the choices of a training pass for `end_round`; accumulation changes nothing."""
        self.round_counts += coding.counts
        if self.average is not None:
            self.average.observe(coding.sums)

    @torch.no_grad()
    def end_round(self, skip: Bool[Tensor, ""]) -> None:
        """Apply what the round's choices say; all ranks agree. With `skip` only forget them.

        Nothing here waits for the device: `skip` stays a tensor.
        """
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.round_counts)
        chosen = self.round_counts * ~skip
        self.counts += chosen
        positions = chosen.sum(-1, keepdim=True)
        self.idle.copy_(torch.where(chosen > 0, 0, self.idle + positions))
        if self.average is not None:
            self.average.end_round(self.codes, self.round_counts, skip)
        if self.standardiser is not None:
            self.standardiser.end_round(skip)
        self.round_counts.zero_()

    # Start and revival

    @torch.no_grad()
    def init_from_data(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Put every book's codes on the k-means centroids of what that level has to code."""
        if self.standardiser is not None:
            self.standardiser.init_from_data(self.project(x))
        for level, points in self.residuals(x):
            centroids = kmeans(points, self.codebook_size, generator=generator)
            self._set_codes(level, torch.ones_like(self.idle[level], dtype=torch.bool), centroids)
        self.idle.zero_()

    @torch.no_grad()
    def relocate_codes(
        self,
        x: Tensor,
        *,
        idle_positions: int,
        max_fraction: float,
        margin: float | None = None,
        error_power: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Bool[Tensor, "levels codebook_size"]:
        """Move codes that are not needed onto inputs that are served badly.

        Level by level: points that a moved code serves leave nothing to the levels after it.
        Nothing here waits for the device.

        Args:
            x: Inputs of this site, as `forward` takes them.
            idle_positions: A code is dead when this many positions went by without choosing it.
            max_fraction: At most this share of a book (but one code) moves at once, the longest
                idle first.
            margin: A living code moves too where that lowers the error by this many times what its
                absence adds; one half of the book, drawn anew, may. None: only dead codes move.
            error_power: Inputs are drawn in proportion to this power of their error: 1 serves the
                rare ones that lie far off, 0 divides the codes that are chosen most.
            generator: Of the device of `x`; decides which inputs become codes.

        Returns:
            Which codes moved, so that optimizers can forget their momentum.
        """
        moved = torch.zeros_like(self.idle, dtype=torch.bool)
        most = max(1, int(max_fraction * self.codebook_size))
        for level, points in self.residuals(x):
            dead = self.idle[level] >= idle_positions
            movable = None
            if margin is not None:
                coins = torch.empty_like(self.codes[level, :, 0]).uniform_(generator=generator)
                movable = coins < 0.5
            served = fit(partial(self._misfit_in, level), points, self.codebook_size, movable)
            # The largest of weight / exponential noise: drawn by weight, without replacement.
            noise = torch.empty_like(served.error).exponential_(generator=generator)
            weight = served.error.clamp(min=0) ** error_power * (served.error > 0)
            rows = (weight / noise).topk(min(most, len(points))).indices
            gain = torch.zeros_like(served.error[rows])  # places go in the order of the draw
            cost = torch.full_like(self.codes[level, :, 0], torch.inf)
            if movable is not None:
                misfit = partial(self.misfit, codes=points[rows])
                gain = gains(served, points, rows, misfit, self.codebook_size)
                cost = costs(served, movable)
            gain, order = gain.sort(descending=True, stable=True)
            # Dead codes go first, the longest idle before all others.
            cost = torch.where(dead, -self.idle[level].float(), cost)
            cost, codes = (values[: len(rows)] for values in cost.sort(stable=True))
            moved[level, codes] = dead[codes] | (gain > (margin or 1.0) * cost)
            place = torch.zeros_like(self.idle[level]).scatter_(0, codes, rows[order])
            self._set_codes(level, moved[level], points[place])
        self.idle.masked_fill_(moved, 0)
        return moved

    def misfit(
        self, points: Float[Tensor, "n codebook_dim"], codes: Float[Tensor, "k codebook_dim"]
    ) -> Float[Tensor, "n k"]:
        """Error of every point with each code: |x - c|^2, or 1 - cosine; fp32."""
        with exact_products(points):
            points, codes = at_least_fp32(points), at_least_fp32(codes)
            if self.cosine:
                return 1 - F.normalize(points, dim=-1) @ F.normalize(codes, dim=-1).mT
            inner = points @ codes.mT
            lengths = codes.square().sum(-1) + points.square().sum(-1, keepdim=True)
            return (lengths - 2 * inner).clamp(min=0)

    def bias(self) -> Float[Tensor, "1 codebook_size"] | None:
        """What counts for each code beside its likeness."""
        return None

    def _misfit_in(
        self, level: int, points: Float[Tensor, "n codebook_dim"]
    ) -> Float[Tensor, "n codebook_size"]:
        errors, bias = self.misfit(points, self.codes[level]), self.bias()
        return errors if bias is None else errors - bias

    def has_dead_codes(self, idle_positions: int) -> Bool[Tensor, " levels"]:
        """Whether some code of each level has gone unchosen for so many positions."""
        return (self.idle >= idle_positions).any(-1)

    def _set_codes(
        self,
        level: int,
        which: Bool[Tensor, " codebook_size"],
        values: Float[Tensor, "codebook_size codebook_dim"],
    ) -> None:
        self.codes[level] = torch.where(which[:, None], values, self.codes[level])
        if self.average is not None:
            self.average.restart(level, which, values)
