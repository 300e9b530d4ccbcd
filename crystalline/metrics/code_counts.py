"""How often codes were chosen where a text is scored."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from crystalline.contract import Codes


def counted_positions(
    codes: Codes, scored: Bool[Tensor, "batch tokens"]
) -> Bool[Tensor, "batch pos"]:
    """Which of a site's positions are real and end on a scored token."""
    real = scored.gather(1, codes.last_tokens().clamp(max=scored.shape[1] - 1))
    return real if codes.mask is None else real & codes.mask


def count_codes(
    codes: Codes, scored: Bool[Tensor, "batch tokens"]
) -> Int[Tensor, "levels codebook_size"]:
    """How often each code was chosen at those positions."""
    real = counted_positions(codes, scored)
    if codes.weights is not None and codes.shared:  # slots of weight 0 are not used
        levels = [codes.indices[real[..., None] & (codes.weights > 0)]]
    else:
        chosen = codes.indices[real]
        levels = [chosen.flatten()] if codes.shared else list(chosen.unbind(-1))
    return torch.stack([torch.bincount(level, minlength=codes.codebook_size) for level in levels])


def count_sizes(codes: Codes, scored: Bool[Tensor, "batch tokens"]) -> Int[Tensor, " sizes"]:
    """How many of those positions chose 0, 1, ... up to k codes."""
    used = torch.ones_like(codes.indices)
    if codes.weights is not None and codes.shared:
        used = (codes.weights > 0).long()
    number = used.sum(-1)[counted_positions(codes, scored)]
    return torch.bincount(number, minlength=used.shape[-1] + 1)
