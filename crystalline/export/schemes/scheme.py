"""How a tensor lies in a file: what every scheme answers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

Clip = Literal["none", "mse"]
"""Whether scales reach the largest value, or are the ones of least squared error."""


class Packed(NamedTuple):
    """The bytes of a tensor."""

    values: UInt8[np.ndarray, " bytes"]
    scales: UInt8[np.ndarray, " bytes"]
    """Empty where the scheme has none."""


class Scheme(ABC):
    """One row of the table of schemes in docs/crystal_format.md."""

    number: int
    """In the directory."""
    name: str
    group: int = 0
    """Neighbours within a row that share a scale; 0 where that is not the scheme's way."""
    rounds: bool = True
    """Whether it is for weights, whose values it changes."""
    clips: bool = False
    """Whether it knows `clip="mse"`."""

    @abstractmethod
    def encode(self, array: np.ndarray, clip: Clip = "none") -> Packed:
        """The array's bytes.

        Raises:
            ValueError: If a value cannot be told in this scheme, such as NaN as an integer.
        """

    @abstractmethod
    def decode(self, packed: Packed, shape: tuple[int, ...]) -> np.ndarray:
        """An array of its own: fp32 for weights. Sizes of `packed` are those of `sizes(shape)`."""

    @abstractmethod
    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Bytes of values and of scales."""

    def shrinks(self, shape: tuple[int, ...]) -> bool:
        """Whether it takes fewer bytes than fp32."""
        return sum(self.sizes(shape)) < 4 * math.prod(shape)


def rows_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """Number and length of rows: they run along the last axis."""
    length = shape[-1] if shape else 1
    return math.prod(shape[:-1]), length


def finite(array: np.ndarray) -> np.ndarray:
    """The array as fp32.

    Raises:
        ValueError: If it has values that are not finite.
    """
    array = np.asarray(array, np.float32)
    if not np.isfinite(array).all():
        raise ValueError("is not finite")
    return array


def as_bytes(array: np.ndarray | np.generic) -> UInt8[np.ndarray, " bytes"]:
    """Its memory, in C order and little-endian."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8)
