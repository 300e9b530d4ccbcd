"""The block: retention, MLP, and a quantizer somewhere in the path (spec sections 3.7 and 12)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.contract import Edit
from crystalline.layers.mlp import MLP
from crystalline.layers.retention import RetentionState, SimplifiedRetention
from crystalline.quantizers.codebook import QuantizerOutput
from crystalline.quantizers.residual import ResidualQuantizer

Placement = Literal["add", "replace_mlp", "replace_stream", "none", "continuous"]
Mode = Literal["source", "fixed"]


class DiscretizedManifoldBlock(nn.Module):
    """A block of retention, MLP and quantizer.

    u = x + retention(norm x); m = MLP(norm u); then, by `placement`:

    add             y = u + m + Q(norm(u + m))   (the published block)
    replace_mlp     y = u + W Q(norm m)          all that the MLP writes is a sum of codes
    replace_stream  y = Q(u + m)                 every bit that leaves the block is coded
    none            y = u + m                    no quantizer
    continuous      add (source) or replace_mlp (fixed) with Q the identity

    In mode "source" the norm before Q has an affine map and Q's straight-through gradient goes
    into an added branch as published (defects Z04, Z28); in mode "fixed" it has none, and an added
    branch passes no straight-through gradient. A narrow quantizer's own map back is W.

    Args:
        d_model: Width.
        num_heads: Heads of the retention.
        context_length: Longest sequence in positions of this stage.
        dropout: On what retention and MLP write.
        placement: Where the quantizer stands.
        mode: "source" or "fixed".
        quantizer: Builds this block's own quantizer from `d_model=`.
        short_conv: Width of the retention's convolution; 0 for none.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        context_length: int,
        dropout: float,
        *,
        placement: Placement,
        mode: Mode,
        quantizer: Callable[..., ResidualQuantizer],
        short_conv: int = 0,
    ) -> None:
        super().__init__()
        fixed = mode == "fixed"
        self.placement = placement
        self.replaces_mlp = placement == "replace_mlp" or (placement == "continuous" and fixed)
        self.retention_norm = nn.LayerNorm(d_model)
        self.retention = SimplifiedRetention(
            d_model, num_heads, context_length, dropout, normalised=fixed, short_conv=short_conv
        )
        self.mlp_norm = nn.LayerNorm(d_model)
        self.mlp = MLP(d_model, 4 * d_model, dropout)
        whole = placement in ("none", "replace_stream")
        self.code_norm = None if whole else nn.LayerNorm(d_model, elementwise_affine=not fixed)
        self.quantizer = None
        if placement == "replace_stream":
            self.quantizer = quantizer(d_model=d_model, standardise=True)
        elif placement in ("add", "replace_mlp"):
            self.quantizer = quantizer(d_model=d_model)
        narrow = self.quantizer is not None and self.quantizer.project_out is not None
        self.write = (
            nn.Linear(d_model, d_model, bias=False) if self.replaces_mlp and not narrow else None
        )

    def residual_maps(self) -> list[nn.Linear]:
        """Linear maps whose output, of growing number, is added to the stream as it is."""
        return [self.retention.out] if self.replaces_mlp else [self.retention.out, self.mlp.down]

    def code_maps(self) -> list[nn.Linear]:
        """Linear maps that write codes of unit scale to the stream."""
        if not self.replaces_mlp:
            return []
        if self.write is not None:
            return [self.write]
        assert self.quantizer is not None
        assert self.quantizer.project_out is not None
        return [self.quantizer.project_out]

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        state: RetentionState | None = None,
        override: Edit | None = None,
        positions: Int[Tensor, " pos"] | None = None,
    ) -> tuple[Float[Tensor, "batch pos d_model"], QuantizerOutput | None]:
        u = x + self.retention(self.retention_norm(x), state)
        m = self.mlp(self.mlp_norm(u))
        n = m if self.replaces_mlp else u + m
        if self.code_norm is not None:
            n = self.code_norm(n)
        chosen = None
        if self.quantizer is not None:
            chosen = self.quantizer(n, override, positions)
            n = chosen.quantized
        if self.replaces_mlp:
            return u + (n if self.write is None else self.write(n)), chosen
        if self.code_norm is None:
            return n, chosen
        return u + m + n, chosen
