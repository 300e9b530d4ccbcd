"""What generation keeps, level by level."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from crystalline.layers.position_cache import PositionCache
from crystalline.models.abstractinator.segmenter import SegmenterState


@dataclass
class LevelCache:
    """Of one level."""

    symbols: PositionCache
    """Labels and encoder states of the level's positions."""
    segments: PositionCache
    """Vectors of its finished segments."""
    contexts: PositionCache
    """What the level above says before each of its segments, and in which document that is."""
    segmenter: SegmenterState
    documents: Int[Tensor, " batch"]
    """Begun in what the level above has seen."""
    entropy: list[PositionCache]
    encoder: list[PositionCache]
    expander: list[PositionCache]


@dataclass
class PyramidCache:
    """Of the whole model."""

    levels: list[LevelCache]
    top_symbols: PositionCache
    top: list[PositionCache]
    documents: Int[Tensor, " batch"]
    """Begun in the tokens seen."""
    draw: bool = False
    """Whether codes that are to be spoken from are drawn instead of averaged; mode discrete."""
    position: int = 0
    """Tokens seen."""
