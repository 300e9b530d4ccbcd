"""Vector quantization (van den Oord et al. 2017, arXiv:1711.00937): one code a position."""

from __future__ import annotations

from typing import Literal

from crystalline.quantizers.codebook import Update
from crystalline.quantizers.estimators import Estimator
from crystalline.quantizers.residual import ResidualQuantizer


class VectorQuantizer(ResidualQuantizer):
    """A residual quantizer of one level; the arguments mean the same."""

    def __init__(
        self,
        d_model: int,
        codebook_size: int = 1024,
        codebook_dim: int | None = None,
        *,
        estimator: Estimator = "straight_through",
        similarity: Literal["euclidean", "cosine"] = "euclidean",
        update: Update = "gradient",
        ema_decay: float = 0.99,
        warmup: float = 0.0,
        standardise: bool = False,
        restore: bool = True,
        d_input: int | None = None,
    ) -> None:
        super().__init__(
            d_model,
            codebook_size,
            1,
            codebook_dim,
            estimator=estimator,
            similarity=similarity,
            update=update,
            ema_decay=ema_decay,
            warmup=warmup,
            standardise=standardise,
            restore=restore,
            d_input=d_input,
        )
