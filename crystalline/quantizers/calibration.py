"""Work on all codebooks of a model with the inputs that reach them, in one forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crystalline.contract import LanguageModel
from crystalline.eval_mode import evaluating
from crystalline.quantizers.codebook import Codebook

Visit = Callable[[str, Codebook, Float[Tensor, "batch pos d_model"]], None]
"""`visit(site, book, inputs)`, called before the book quantizes `inputs`; none is padding."""


def visit_codebooks(model: LanguageModel, tokens: Int[Tensor, "batch pos"], visit: Visit) -> None:
    """Call `visit` for every maintained site, in the order of computation.

    What a visit changes is what later sites see. The pass runs in eval mode: no dropout, no usage
    counted.
    """

    def hook(site: str) -> Callable[[Codebook, tuple[Tensor, ...]], None]:
        return lambda book, args: visit(site, book, _real(*args))

    books = {site: book for site, book in model.codebooks().items() if book.maintained}
    hooks = [book.register_forward_pre_hook(hook(site)) for site, book in books.items()]
    try:
        with evaluating(model):
            model(tokens, codes=True)  # asking for codes runs every stage
    finally:
        for handle in hooks:
            handle.remove()


def _real(x: Tensor, _: Any = None, __: Any = None, real: Tensor | None = None) -> Tensor:
    """By the arguments of `ProjectedCodebook.forward`."""
    return x if real is None else x[real][:, None]


def init_codebooks(model: LanguageModel, tokens: Int[Tensor, "batch pos"], seed: int) -> None:
    """k-means codes at every maintained site, each on inputs that come through the sites before it.

    Args:
        model: The model; its training mode is restored.
        tokens: Some 20 positions a code are wanted at the longest sites.
        seed: Decides the starting points of k-means.
    """
    generator = torch.Generator().manual_seed(seed)
    visit_codebooks(model, tokens, lambda _, book, inputs: book.init_from_data(inputs, generator))
