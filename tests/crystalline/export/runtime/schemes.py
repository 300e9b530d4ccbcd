"""Weights in every scheme of the file, written down from its description alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NUMBERS = {
    "f32": 0, "f16": 1, "u8": 2, "u16": 3, "u32": 4, "i32": 5, "i64": 6, "int8_tensor": 16,
    "int16_tensor": 17, "int8_row": 18, "int6_group": 19, "int4_group": 20,
}  # fmt: skip
WEIGHTS = ("f32", "f16", "int8_tensor", "int16_tensor", "int8_row", "int6_group", "int4_group")
GROUP = 32


class Stored(NamedTuple):
    scheme: str
    shape: tuple[int, ...]
    values: bytes
    scales: bytes
    meaning: np.ndarray
    """What the values stand for, as fp32."""

    @property
    def group(self) -> int:
        return GROUP if self.scheme.endswith("_group") else 0


def plain(array: np.ndarray) -> Stored:
    """Integers and floats as they are."""
    kinds = {"float32": "f32", "uint8": "u8", "bool": "u8", "uint16": "u16", "uint32": "u32",
             "int32": "i32", "int64": "i64"}  # fmt: skip
    return Stored(kinds[str(array.dtype)], array.shape, array.tobytes(), b"", array)


def stored(array: np.ndarray, scheme: str) -> Stored:
    """Floats in a scheme of weights."""
    array = np.ascontiguousarray(array, dtype=np.float32)
    if scheme == "f32":
        return plain(array)
    if scheme == "f16":
        halves = array.astype(np.float16)
        return Stored(scheme, array.shape, halves.tobytes(), b"", halves.astype(np.float32))
    if scheme.endswith("_tensor"):
        return _tensor(array, scheme)
    rows = array.reshape(-1, array.shape[-1])
    if scheme == "int8_row":
        scales = np.maximum(np.abs(rows).max(1), 1e-9).astype(np.float32) / np.float32(127)
        q = np.clip(np.rint(rows / scales[:, None]), -127, 127).astype(np.int8)
        meaning = (q.astype(np.float32) * scales[:, None]).reshape(array.shape)
        return Stored(scheme, array.shape, q.tobytes(), scales.tobytes(), meaning)
    return _groups(array, rows, scheme)


def _tensor(array: np.ndarray, scheme: str) -> Stored:
    """One scale and one offset; the middle of the range is 0."""
    levels, kind = (127, np.int8) if scheme == "int8_tensor" else (32767, np.int16)
    low, high = float(array.min()), float(array.max())
    scale = np.float32((high - low) / (2 * levels) or 1.0)
    offset = np.float32(low + levels * scale)
    q = np.clip(np.rint((array - offset) / scale), -levels, levels).astype(kind)
    scales = np.array([scale, offset], np.float32).tobytes()
    return Stored(scheme, array.shape, q.tobytes(), scales, q.astype(np.float32) * scale + offset)


def _groups(array: np.ndarray, rows: np.ndarray, scheme: str) -> Stored:
    middle = 32 if scheme == "int6_group" else 8
    groups = -(-rows.shape[1] // GROUP)
    padded = np.zeros((len(rows), groups * GROUP), np.float32)
    padded[:, : rows.shape[1]] = rows
    parts = padded.reshape(len(rows), groups, GROUP)
    scales = np.maximum(np.abs(parts).max(-1) / (middle - 1), 1e-6).astype(np.float16)
    wide = scales.astype(np.float32)[..., None]
    q = np.clip(np.rint(parts / wide), 1 - middle, middle - 1)
    meaning = (q * wide).reshape(len(rows), -1)[:, : rows.shape[1]].reshape(array.shape)
    u = (q + middle).astype(np.uint32).reshape(len(rows), -1)
    if middle == 8:
        packed = (u[:, ::2] | u[:, 1::2] << 4).astype(np.uint8)
    else:
        four = u.reshape(len(rows), -1, 4)
        three = four[..., 0] | four[..., 1] << 6 | four[..., 2] << 12 | four[..., 3] << 18
        packed = np.stack([three >> 8 * k & 255 for k in range(3)], -1).astype(np.uint8)
    return Stored(scheme, array.shape, packed.tobytes(), scales.tobytes(), meaning)
