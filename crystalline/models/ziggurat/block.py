"""The block: retention, MLP, and a quantizer somewhere in the path (spec sections 3.7 and 12)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.contract import Edit
from crystalline.layers.convolution import CausalConvolution
from crystalline.layers.mlp import MLP, Hidden
from crystalline.layers.retention import RetentionState, SimplifiedRetention
from crystalline.quantizers.codebook import QuantizerOutput
from crystalline.quantizers.residual import ResidualQuantizer

Placement = Literal["add", "replace_mlp", "replace_stream", "none", "continuous"]
Mode = Literal["source", "fixed"]


@dataclass
class BlockState:
    """What a block carries over from the positions it has seen."""

    retention: RetentionState
    recent: Float[Tensor, "batch width d_model"] | None
    """Inputs of the MLP that its convolution still needs."""


class Unrounded(nn.Module):
    """A quantizer's maps to its codes and back, without codes: the control for rounding."""

    def __init__(self, quantizer: ResidualQuantizer) -> None:
        super().__init__()
        assert quantizer.project_in is not None
        assert quantizer.project_out is not None
        self.project_in = quantizer.project_in
        self.project_out = quantizer.project_out

    def forward(self, x: Float[Tensor, "batch pos d_mlp"]) -> Float[Tensor, "batch pos d_model"]:
        y = self.project_in(x)
        return self.project_out(F.layer_norm(y, y.shape[-1:]))


class DiscretizedManifoldBlock(nn.Module):
    """A block of retention, MLP and quantizer.

    u = x + retention(norm x); then, with h = GELU(W_up norm u) and m = W_down h, by `placement`:

    add             y = u + m + Q(norm(u + m))   (the published block)
    replace_mlp     y = u + W_out Q(norm(W_in h))   all that the MLP writes is a sum of codes
    replace_stream  y = Q(u + m)                 every bit that leaves the block is coded
    none            y = u + m                    no quantizer
    continuous      add (source) or replace_mlp (fixed) with Q the identity

    W_in leads from the MLP's hidden layer to the width of the codes: it takes W_down's place. In
    mode "source" the norm before Q has an affine map and Q's straight-through gradient goes
    into an added branch as published (defects Z04, Z28); in mode "fixed" it has none, and an added
    branch passes no straight-through gradient. Dropout acts on what is written, not on what is
    coded (defect Z27), but for m in `add`.

    Args:
        d_model: Width.
        d_mlp: Width of the MLP's hidden layer.
        num_heads: Heads of the retention.
        context_length: Longest sequence in positions of this stage.
        dropout: On what retention and MLP write.
        placement: Where the quantizer stands.
        mode: "source" or "fixed".
        quantizer: Builds this block's own quantizer from `d_model=` and the like.
        short_conv: Width of the convolutions before retention and MLP; 0 for none.
        gated: Whether the retention's decays depend on the input.
    """

    def __init__(
        self,
        d_model: int,
        d_mlp: int,
        num_heads: int,
        context_length: int,
        dropout: float,
        *,
        placement: Placement,
        mode: Mode,
        quantizer: Callable[..., ResidualQuantizer],
        short_conv: int = 0,
        gated: bool = False,
    ) -> None:
        super().__init__()
        fixed = mode == "fixed"
        self.placement = placement
        self.replaces_mlp = placement == "replace_mlp" or (placement == "continuous" and fixed)
        self.retention_norm = nn.LayerNorm(d_model)
        self.retention = SimplifiedRetention(
            d_model, num_heads, context_length, dropout,
            normalised=fixed, short_conv=short_conv, gated=gated,
        )  # fmt: skip
        self.mlp_norm = nn.LayerNorm(d_model)
        self.mlp_conv = CausalConvolution(d_model, short_conv) if short_conv else None
        self.mlp = Hidden(d_model, d_mlp) if self.replaces_mlp else MLP(d_model, d_mlp, dropout)
        self.code_norm = self.quantizer = self.unrounded = None
        if placement == "add" or (placement == "continuous" and not fixed):
            self.code_norm = nn.LayerNorm(d_model, elementwise_affine=not fixed)
        if placement == "add":
            self.quantizer = quantizer(d_model=d_model)
        elif placement == "replace_stream":
            self.quantizer = quantizer(d_model=d_model, standardise=True, restore=True)
        elif placement == "replace_mlp":
            self.quantizer = quantizer(d_model=d_model, d_input=d_mlp)
        elif self.replaces_mlp:
            self.unrounded = Unrounded(quantizer(d_model=d_model, d_input=d_mlp))
        self.dropout = nn.Dropout(dropout)

    def residual_maps(self) -> list[nn.Linear]:
        """Linear maps whose output, of growing number, is added to the stream as it is."""
        down = [self.mlp.down] if isinstance(self.mlp, MLP) else []
        return [self.retention.out, *down]

    def code_maps(self) -> list[nn.Linear]:
        """Linear maps that write codes of unit scale to the stream."""
        source = self.quantizer or self.unrounded
        if not self.replaces_mlp or source is None or source.project_out is None:
            return []
        return [source.project_out]

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        state: BlockState | None = None,
        override: Edit | None = None,
        positions: Int[Tensor, " pos"] | None = None,
    ) -> tuple[Float[Tensor, "batch pos d_model"], QuantizerOutput | None]:
        u = x + self.retention(self.retention_norm(x), None if state is None else state.retention)
        m = self.mlp(self._mix(self.mlp_norm(u), state))
        n = m if self.replaces_mlp else u + m
        if self.code_norm is not None:
            n = self.code_norm(n)
        chosen = None
        if self.quantizer is not None:
            chosen = self.quantizer(n, override, positions)
            n = chosen.quantized
        elif self.unrounded is not None:
            n = self.unrounded(n)
        if self.replaces_mlp:
            return u + self.dropout(n), chosen
        return n if self.code_norm is None else u + m + n, chosen

    def _mix(
        self, x: Float[Tensor, "batch pos d_model"], state: BlockState | None
    ) -> Float[Tensor, "batch pos d_model"]:
        if self.mlp_conv is None:
            return x
        x, recent = self.mlp_conv(x, None if state is None else state.recent)
        if state is not None:
            state.recent = recent
        return x

    def init_state(self, batch: int) -> BlockState:
        """The state before the first position."""
        recent = None if self.mlp_conv is None else self.mlp_conv.init_recent(batch)
        return BlockState(self.retention.init_state(batch), recent)
