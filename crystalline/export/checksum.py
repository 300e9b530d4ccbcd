"""CRC-32C (Castagnoli), the checksum of .crystal files, in arrays instead of byte by byte.

The register of a CRC without its first and last inversion is linear in the data and does not see
zeros in front. So the data are cut into equal lanes, which advance together two bytes at a time,
and the lanes are joined in pairs: register(A B) = advance(register(A), bytes of B) ^ register(B).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import UInt32

_POLYNOMIAL = np.uint32(0x82F63B78)
_INVERTED = np.uint32(0xFFFFFFFF)
_BYTE, _WORD = 8, 16
_SHORT = 16384
"""Bytes from which on lanes are faster."""


def crc32c(data: bytes | bytearray | memoryview | np.ndarray, before: int = 0) -> int:
    """The checksum of what had the checksum `before`, followed by `data`."""
    content = np.frombuffer(data, np.uint8)
    if len(content) < _SHORT:
        return _plain(content.tobytes(), before)
    start = np.array([np.uint32(before) ^ _INVERTED])
    found = _advance(start, len(content)) ^ _register(content)
    return int(found[0] ^ _INVERTED)


def _plain(content: bytes, before: int) -> int:
    """Byte by byte: the definition, and faster where there is little."""
    table = _bytes_table()
    crc = before ^ 0xFFFFFFFF
    for byte in content:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


@cache
def _bytes_table() -> list[int]:
    return _step_table(_BYTE).tolist()


def _register(content: np.ndarray) -> UInt32[np.ndarray, " one"]:
    lanes = 1 << max(0, (len(content) // 2).bit_length() // 2)  # about as many as steps
    steps = -(-len(content) // (2 * lanes))
    padded = np.zeros(2 * lanes * steps, np.uint8)
    padded[len(padded) - len(content) :] = content
    words = padded.view("<u2").reshape(lanes, steps).T.astype(np.uint32)
    table = _step_table(_WORD)
    crcs = np.zeros(lanes, np.uint32)
    for column in words:
        crcs = table[(crcs ^ column) & 0xFFFF] ^ (crcs >> 16)
    count = 2 * steps
    while len(crcs) > 1:
        crcs = _advance(crcs[::2], count) ^ crcs[1::2]
        count *= 2
    return crcs


def _advance(crcs: UInt32[np.ndarray, " lanes"], count: int) -> UInt32[np.ndarray, " lanes"]:
    """Registers after `count` more bytes of zeros."""
    bit = 0
    while count:
        if count & 1:
            crcs = _applied(_zeros(bit), crcs)
        count >>= 1
        bit += 1
    return crcs


@cache
def _zeros(bit: int) -> UInt32[np.ndarray, " bits"]:
    """What 2**bit bytes of zeros make of each bit of the register."""
    if bit == 0:
        bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
        return _step_table(_BYTE)[bits & 0xFF] ^ (bits >> np.uint32(_BYTE))
    half = _zeros(bit - 1)
    return _applied(half, half)


def _applied(
    matrix: UInt32[np.ndarray, " bits"], crcs: UInt32[np.ndarray, " lanes"]
) -> UInt32[np.ndarray, " lanes"]:
    found = np.zeros_like(crcs)
    for bit in range(32):
        found ^= np.where(crcs >> np.uint32(bit) & 1, matrix[bit], np.uint32(0))
    return found


@cache
def _step_table(bits: int) -> UInt32[np.ndarray, " values"]:
    """What the lowest `bits` of a register become once they are shifted out."""
    table = np.arange(1 << bits, dtype=np.uint32)
    for _ in range(bits):
        table = np.where(table & 1, (table >> np.uint32(1)) ^ _POLYNOMIAL, table >> np.uint32(1))
    return table
