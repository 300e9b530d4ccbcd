"""Six or four bits a value and a scale for every 32 neighbours of a row.

x ~ q scale,  q = round(x / scale) in [-L, L],  scale = max |group| / L in half precision

L is 31 or 7; q + L + 1 is what is packed. Scales are rounded up to half precision, so that without
clipping no weight moves by more than half a scale.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from crystalline.export.schemes.clipping import least_error, rounded
from crystalline.export.schemes.scheme import Clip, Packed, Scheme, as_bytes, finite, rows_of

GROUP = 32
_LARGEST = 65504.0
"""Of half precision."""


class Groupwise(Scheme):
    """Small integers, packed.

    Args:
        number: In the directory.
        bits: 6 or 4.
    """

    group = GROUP
    clips = True

    def __init__(self, number: int, bits: int) -> None:
        self.number = number
        self.name = f"int{bits}_group"
        self.bits = bits
        self.levels = 2 ** (bits - 1) - 1

    def encode(self, array: np.ndarray, clip: Clip = "none") -> Packed:
        rows, length = rows_of(array.shape)
        groups = -(-length // GROUP)
        padded = np.zeros((rows, groups * GROUP), np.float32)
        padded[:, :length] = finite(array).reshape(rows, length)
        parts = padded.reshape(rows * groups, GROUP)
        full = np.abs(parts).max(1, initial=0) / np.float32(self.levels)
        if full.max(initial=0) > _LARGEST:
            raise ValueError(f"has values beyond {self.levels * _LARGEST:.0f}")
        scales = _half_above(full)
        if clip == "mse":
            scales = least_error(parts, full, self.levels, _half_above)
        u = rounded(parts, scales, self.levels).astype(np.int8) + np.int8(self.levels + 1)
        packed = _six(u.view(np.uint8)) if self.bits == 6 else _four(u.view(np.uint8))
        return Packed(packed, as_bytes(scales.astype("<f2")))

    def decode(self, packed: Packed, shape: tuple[int, ...]) -> np.ndarray:
        rows, length = rows_of(shape)
        u = _unpacked_six(packed.values) if self.bits == 6 else _unpacked_four(packed.values)
        q = u.astype(np.float32).reshape(-1, GROUP) - np.float32(self.levels + 1)
        scaled = q * packed.scales.view("<f2").astype(np.float32)[:, None]
        groups = -(-length // GROUP)
        return scaled.reshape(rows, groups * GROUP)[:, :length].reshape(shape)

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int]:
        rows, length = rows_of(shape)
        groups = rows * -(-length // GROUP)
        return groups * GROUP * self.bits // 8, 2 * groups


def _half_above(scales: np.ndarray) -> np.ndarray:
    """The next value of half precision that is not smaller, as fp32."""
    halves = scales.astype(np.float16)
    low = halves.astype(np.float32) < scales
    halves[low] = np.nextafter(halves[low], np.float16(np.inf))
    return halves.astype(np.float32)


def _four(u: UInt8[np.ndarray, "parts length"]) -> UInt8[np.ndarray, " bytes"]:
    pairs = u.reshape(-1, 2)
    return pairs[:, 0] | pairs[:, 1] << 4


def _unpacked_four(packed: UInt8[np.ndarray, " bytes"]) -> UInt8[np.ndarray, "bytes two"]:
    return np.stack([packed & 15, packed >> 4], -1)


def _six(u: UInt8[np.ndarray, "parts length"]) -> UInt8[np.ndarray, " bytes"]:
    a, b, c, d = u.reshape(-1, 4).T
    return np.stack([a | b << 6, b >> 2 | c << 4, c >> 4 | d << 2], -1).reshape(-1)


def _unpacked_six(packed: UInt8[np.ndarray, " bytes"]) -> UInt8[np.ndarray, "threes four"]:
    x, y, z = packed.reshape(-1, 3).T
    return np.stack([x & 63, (x >> 6 | y << 2) & 63, (y >> 4 | z << 4) & 63, z >> 2], -1)
