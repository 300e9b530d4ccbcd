"""What the way up leaves behind, level by level: losses and codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from crystalline.contract import Codes
from crystalline.layers.parts import Parts
from crystalline.models.abstractinator.compressor import Segments
from crystalline.models.abstractinator.level import Abstractinator
from crystalline.models.abstractinator.symbols import Sight, Symbols


class Climb(NamedTuple):
    """A level on the way up."""

    symbols: Symbols
    sight: Sight
    segments: Segments


def own_losses(
    levels: Parts[Abstractinator], climbs: Sequence[Climb]
) -> dict[str, Float[Tensor, ""]]:
    """Losses on the way up, by name: means over the levels that have them."""
    found: dict[str, list[Tensor]] = {}
    books = None
    for level, climb in zip(levels, climbs, strict=True):
        if level.content is not None:
            value = level.content(climb.symbols, climb.segments, books)
            found.setdefault("content", []).append(value)
        books = level.compressor.books
        if climb.segments.entropy_loss is not None:
            found.setdefault("entropy_model", []).append(climb.segments.entropy_loss)
        if climb.segments.chosen is not None:
            for name, value in climb.segments.chosen.losses.items():
                found.setdefault(name, []).append(value)
    return {name: torch.stack(values).mean() for name, values in found.items()}


def codes_of(levels: Parts[Abstractinator], climbs: Sequence[Climb]) -> dict[str, Codes]:
    """The codes of finished segments, by site."""
    found = {}
    for index, (symbols, _, segments) in enumerate(climbs):
        book = levels[index].compressor.quantizer
        if segments.chosen is None or book is None:
            continue
        real = segments.finished
        if index:  # the first segment above may hold nothing but the separator in front
            real = real & (segments.numbers > 0)
        found[f"levels.{index}.compressor.quantizer"] = Codes(
            segments.chosen.indices * real[..., None],
            book.codebook_size,
            mask=real,
            ends=torch.where(real, segments.ends, symbols.ends.amax(1, keepdim=True)),
        )
    return found
