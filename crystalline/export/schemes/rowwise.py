"""Eight bits a value and a scale a row.

x ~ q scale,  q = round(x / scale) in [-127, 127],  scale = max |row| / 127

Without clipping no weight moves by more than half a scale: 0.4 % of its row's largest.
"""

from __future__ import annotations

import numpy as np

from crystalline.export.schemes.clipping import least_error, rounded
from crystalline.export.schemes.scheme import Clip, Packed, Scheme, as_bytes, finite, rows_of

_LEVELS = 127


class Rowwise(Scheme):
    """int8, rows along the last axis."""

    number = 18
    name = "int8_row"
    clips = True

    def encode(self, array: np.ndarray, clip: Clip = "none") -> Packed:
        rows = finite(array).reshape(rows_of(array.shape))
        scales = np.abs(rows).max(1, initial=0) / np.float32(_LEVELS)
        if clip == "mse":
            scales = least_error(rows, scales, _LEVELS, lambda scale: scale)
        q = rounded(rows, scales, _LEVELS)
        return Packed(as_bytes(q.astype(np.int8)), as_bytes(scales))

    def decode(self, packed: Packed, shape: tuple[int, ...]) -> np.ndarray:
        q = packed.values.view(np.int8).reshape(rows_of(shape)).astype(np.float32)
        return (q * packed.scales.view("<f4")[:, None]).reshape(shape)

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int]:
        rows, length = rows_of(shape)
        return rows * length, 4 * rows
