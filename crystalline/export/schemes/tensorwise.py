"""One scale and one offset for a whole tensor, from its least and its largest value.

    scale = (max - min) / 2 L,  offset = min + L scale,  q = round((x - offset) / scale) in [-L, L]
    x ~ q scale + offset

L is 127 or 32767. A tensor whose values are all alike has q = 0, scale = 1 and offset = min.
"""

from __future__ import annotations

import math

import numpy as np

from crystalline.export.schemes.scheme import Clip, Packed, Scheme, as_bytes, finite

_CONSTANT = 1e-8
"""Range below which a tensor counts as constant."""


class Tensorwise(Scheme):
    """Integers of 8 or 16 bits.

    Args:
        number: In the directory.
        bits: Of a value.
    """

    def __init__(self, number: int, bits: int) -> None:
        self.number = number
        self.name = f"int{bits}_tensor"
        self.levels = 2 ** (bits - 1) - 1
        self.dtype = np.dtype(f"<i{bits // 8}")

    def encode(self, array: np.ndarray, clip: Clip = "none") -> Packed:
        array = finite(array)
        scale, offset = self.calibrated(array)
        q = np.rint((array - offset) / scale).clip(-self.levels, self.levels)
        return Packed(as_bytes(q.astype(self.dtype)), as_bytes(np.array([scale, offset])))

    def calibrated(self, array: np.ndarray) -> tuple[np.float32, np.float32]:
        """Scale and offset."""
        low = float(array.min(initial=np.inf)) if array.size else 0.0
        high = float(array.max(initial=-np.inf)) if array.size else 0.0
        if high - low < _CONSTANT:
            return np.float32(1.0), np.float32(low)
        scale = (high - low) / (2 * self.levels)
        return np.float32(scale), np.float32(low + self.levels * scale)

    def decode(self, packed: Packed, shape: tuple[int, ...]) -> np.ndarray:
        scale, offset = packed.scales.view("<f4").astype(np.float32)
        q = packed.values.view(self.dtype).astype(np.float32)
        return (q * scale + offset).reshape(shape)

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int]:
        return self.dtype.itemsize * math.prod(shape), 8
