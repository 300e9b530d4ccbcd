"""Which attention a model is built with: a form and a backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crystalline.layers.latent_attention import LatentAttention
from crystalline.layers.masked_attention import Backend, MaskedAttention, RegularAttention


@dataclass(frozen=True)
class AttentionForm:
    """Builds attention layers.

    Raises:
        ValueError: If an option is unknown or a width cannot be.
    """

    form: Literal["regular", "latent"] = "regular"
    """Multi-head attention, or multi-head latent attention (MLA)."""
    backend: Backend = "sdpa"
    """"sdpa" with a dense mask, or "flex", which works in blocks on a GPU."""
    d_latent: int = 32
    """Of the latent form: width of what keys and values come from."""
    d_rotary: int = 16
    """Of the latent form: channels that know positions."""
    d_query: int | None = None
    """Of the latent form: width of what queries come from; None: the stream itself."""

    def __post_init__(self) -> None:
        if self.form not in ("regular", "latent"):
            raise ValueError(f"model.attention.form must be regular or latent, got {self.form!r}")
        if self.backend not in ("sdpa", "flex"):
            raise ValueError(f"model.attention.backend must be sdpa or flex, got {self.backend!r}")
        if min(self.d_latent, self.d_rotary, self.d_query or 1) < 1 or self.d_rotary % 2:
            raise ValueError(
                "model.attention needs positive widths and an even d_rotary, got "
                f"d_latent={self.d_latent}, d_rotary={self.d_rotary}, d_query={self.d_query}"
            )

    def build(
        self, d_model: int, num_heads: int, length: int, *, cross: bool = False
    ) -> MaskedAttention:
        """A layer.

        Args:
            d_model: Width.
            num_heads: Heads, which divide it.
            length: Positions that there may be.
            cross: Whether it reads a memory instead of itself.

        Raises:
            ValueError: If the heads do not divide the width.
        """
        if num_heads < 1 or d_model % num_heads:
            raise ValueError(f"num_heads must divide d_model, got {num_heads} and {d_model}")
        if self.form == "regular":
            return RegularAttention(d_model, num_heads, length, self.backend)
        return LatentAttention(
            d_model,
            num_heads,
            length,
            self.backend,
            d_latent=self.d_latent,
            d_rotary=self.d_rotary,
            d_query=self.d_query,
            cross=cross,
        )
