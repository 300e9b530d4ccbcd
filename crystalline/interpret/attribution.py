"""What holding a code would do, for every code at once, to first order.

A code that is held takes the place of others, so a site's output changes by the difference of what
the two add to it. That difference times the gradient there is the change of a score, as long as it
is small: attribution patching (Nanda 2023; Syed et al. 2023, arXiv:2310.10348). One backward pass
serves all codes; who needs more than an order of rank measures the best of them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.contract import LanguageModel, ModelOutput
from crystalline.eval_mode import evaluating


def held_effects(
    model: LanguageModel,
    tokens: Int[Tensor, "batch pos"],
    score: Callable[[ModelOutput], Float[Tensor, ""]],
) -> dict[str, Float[Tensor, "levels codebook_size"]]:
    """By how much `score` would grow with a code held at every position, by site and level.

    Codes of a shared book take its last slot, as in `interventions.clamp`; others their level's.
    No parameter gets a gradient. Gradients pass later choices as their estimators let them; a site
    without a gradient, such as one that speaks through later choices alone that pass none, has
    effects of 0. Where slots have weights that differ by position, a held code counts with its
    usual one.

    Args:
        model: Its mode is the same afterwards.
        tokens: Text, on the model's device.
        score: Differentiable, of what the model answers.
    """
    nudges: dict[str, Tensor] = {}

    def listen(site: str) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(_: nn.Module, __: Any, answer: Any) -> Any:
            nudges[site] = torch.zeros_like(answer.quantized, requires_grad=True)
            return replace(answer, quantized=answer.quantized + nudges[site])

        return hook

    books = model.codebooks()
    with evaluating(model), torch.enable_grad(), ExitStack() as hooks:
        for site, book in books.items():
            hooks.callback(book.register_forward_hook(listen(site)).remove)
        output = model(tokens, codes=True)
        if not nudges:
            return {}
        pulls = torch.autograd.grad(score(output), list(nudges.values()), allow_unused=True)
    effects = {}
    for site, pull in zip(nudges, pulls, strict=True):
        added = books[site].contributions()
        if pull is None:  # no gradient leads here
            effects[site] = added.new_zeros(added.shape[:2])
            continue
        codes, flat = output.codes[site], pull.flatten(0, -2).to(added.dtype)
        chosen = codes.indices.flatten(0, -2)
        slots = [-1] if codes.shared else range(len(added))
        taken = [added[level][chosen[:, slot]] for level, slot in enumerate(slots)]
        if codes.weights is not None:  # a slot without weight repeats another one's code
            taken = [taken[0] * (codes.weights.flatten(0, -2)[:, -1:] > 0)]
        lost = torch.stack([(flat * old).sum() for old in taken])
        effects[site] = added @ flat.sum(0) - lost[:, None]
    return effects
