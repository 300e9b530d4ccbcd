"""Numbers as they are."""

from __future__ import annotations

import math

import numpy as np

from crystalline.export.schemes.scheme import Clip, Packed, Scheme, as_bytes

_NONE = np.zeros(0, np.uint8)


class Plain(Scheme):
    """Values of one type of numbers; no scales.

    Args:
        number: In the directory.
        name: Likewise.
        dtype: NumPy's, little-endian.
    """

    rounds = False

    def __init__(self, number: int, name: str, dtype: str) -> None:
        self.number = number
        self.name = name
        self.dtype = np.dtype(dtype)

    def encode(self, array: np.ndarray, clip: Clip = "none") -> Packed:
        return Packed(as_bytes(array.astype(self.dtype)), _NONE)

    def decode(self, packed: Packed, shape: tuple[int, ...]) -> np.ndarray:
        return packed.values.view(self.dtype).reshape(shape).astype(self.dtype.newbyteorder("="))

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int]:
        return self.dtype.itemsize * math.prod(shape), 0


class Half(Plain):
    """Weights in half precision."""

    rounds = True

    def __init__(self) -> None:
        super().__init__(1, "f16", "<f2")

    def encode(self, array: np.ndarray, clip: Clip = "none") -> Packed:
        if np.abs(array).max(initial=0) > 65504:
            raise ValueError("has values beyond 65504, the largest of half precision")
        return super().encode(array, clip)

    def decode(self, packed: Packed, shape: tuple[int, ...]) -> np.ndarray:
        return super().decode(packed, shape).astype(np.float32)
