"""Small pyramids for the tests of this folder."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from crystalline.models.abstractinator import (
    AbstractinatorPyramid,
    AttentionForm,
    EncoderOptions,
    EntropyOptions,
    ExpanderOptions,
    Segmentation,
    TopOptions,
)
from crystalline.quantizers.residual import ResidualQuantizer

VOCAB, CONTEXT, WIDTH, HEADS = 30, 32, 16, 2
book = partial(ResidualQuantizer, codebook_size=16, num_codebooks=1, codebook_dim=8)


def pyramid(**options: Any) -> AbstractinatorPyramid:
    """Two levels unless `num_levels` says otherwise; parts' options as dictionaries."""
    torch.manual_seed(0)
    parts: dict[str, Any] = {
        "entropy": partial(EntropyOptions, d_model=8, num_layers=1, num_heads=2, window=6),
        "segmentation": partial(
            Segmentation, rule="relative", delta_bits=0.01, max_length=5, min_mean_length=1.0
        ),
        "encoder": partial(EncoderOptions, window=4),
        "expander": partial(ExpanderOptions, num_layers=1, window=8),
        "top": partial(TopOptions, d_model=12, num_layers=1, num_heads=2),
        "attention": partial(AttentionForm, d_latent=8, d_rotary=4),
    }
    built = {name: part(**options.pop(name, {})) for name, part in parts.items()}
    upper = options.pop("upper_segmentation", None)
    if upper is not None:
        built["upper_segmentation"] = parts["segmentation"](**upper)
    sizes = {"vocab_size": VOCAB, "context_length": CONTEXT, "num_levels": 2} | options
    quantizer = sizes.pop("quantizer", book)
    return AbstractinatorPyramid(
        d_model=WIDTH, num_heads=HEADS, quantizer=quantizer, **sizes, **built
    )


def shaken(**options: Any) -> AbstractinatorPyramid:
    """In evaluation, with weights so large that entropies, codes and scores differ."""
    model = pyramid(**options).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and not name.endswith("codes"):
                parameter.normal_(std=0.4)
    return model
