"""Reading .crystal files that may be damaged or made up: nothing is believed unchecked."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from crystalline.errors import UserError
from crystalline.export.checksum import crc32c
from crystalline.export.container import (
    ALIGNMENT,
    BYTE_ORDER,
    F64,
    HEADER,
    HEADER_BYTES,
    MAGIC,
    MAX_RANK,
    TEXT,
    TRUTH,
    U64,
    VERSION,
    CrystalFile,
    StoredTensor,
    Value,
)
from crystalline.export.schemes import SCHEMES, Packed

_BY_NUMBER = {scheme.number: scheme for scheme in SCHEMES.values()}
_NUMBERS = {U64: "<Q", F64: "<d", TRUTH: "<B"}


class _Refused(Exception):
    """Why a file is."""


def parse(content: UInt8[np.ndarray, " bytes"], name: str) -> CrystalFile:
    """What the file says; its arrays are views of `content`.

    Args:
        content: The whole file.
        name: Of the file, for messages.

    Raises:
        UserError: If anything in it is not as docs/crystal_format.md says.
    """
    try:
        return _parsed(content)
    except _Refused as reason:
        raise UserError(f"{name} is damaged or no model file: {reason}; export it anew") from None


def _parsed(content: np.ndarray) -> CrystalFile:
    if len(content) < HEADER_BYTES:
        raise _Refused(f"{len(content)} bytes are shorter than a header")
    head = content[:HEADER_BYTES].tobytes()
    fields = HEADER.unpack(head[: HEADER.size])
    magic, version, order, size, *places, entries, rows, checksum = fields
    _check(magic == MAGIC, "it does not start with CRYS")
    _check(version == VERSION, f"version {version} is not {VERSION}")
    _check(order == BYTE_ORDER, "another byte order")
    found = struct.unpack("<I", head[HEADER.size :])[0]
    _check(found == crc32c(head[: HEADER.size]), "the header's checksum differs")
    _check(size == len(content), f"{len(content)} bytes instead of {size}")
    metadata_at, metadata_bytes, directory_at, directory_bytes = places
    start, end = metadata_at + metadata_bytes, directory_at + directory_bytes
    _check(metadata_at == HEADER_BYTES, "the metadata do not follow the header")
    _check(start <= directory_at and end <= size, "metadata and directory do not fit")
    metadata, directory = content[metadata_at:start], content[directory_at:end]
    _check(checksum == crc32c(directory, crc32c(metadata)), "the directory's checksum differs")
    _check(not content[start:directory_at].any(), "bytes between metadata and directory")
    known = _metadata(_Cursor(metadata, "metadata"), entries)
    tensors, taken = _directory(_Cursor(directory, "directory"), rows, content)
    _check_gaps(taken, end, content)
    for name, tensor, expected in tensors:
        _check(tensor.checksum() == expected, f"the checksum of {name} differs")
    file = CrystalFile(known, {name: tensor for name, tensor, _ in tensors})
    _check_aliases(file)
    return file


@dataclass
class _Cursor:
    """A place in a part of the file."""

    content: np.ndarray
    what: str
    at: int = 0

    def take(self, count: int) -> bytes:
        if count > len(self.content) - self.at:
            raise _Refused(f"the {self.what} is cut off")
        self.at += count
        return self.content[self.at - count : self.at].tobytes()

    def numbers(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def text(self, count: int) -> str:
        try:
            return self.take(count).decode()
        except UnicodeDecodeError:
            raise _Refused(f"the {self.what} has text that is not UTF-8") from None

    def name(self, last: str | None) -> str:
        """A name that follows `last`."""
        name = self.text(*self.numbers("<H"))
        _check(name != "", f"a name in the {self.what} is empty")
        ordered = last is None or last.encode() < name.encode()
        _check(ordered, f"the {self.what} is not in order at {name}")
        return name

    def end(self) -> None:
        _check(self.at == len(self.content), f"the {self.what} is longer than its entries")


def _metadata(cursor: _Cursor, count: int) -> dict[str, Value]:
    found: dict[str, Value] = {}
    name = None
    for _ in range(count):
        name = cursor.name(name)
        (kind,) = cursor.numbers("<B")
        if kind == TEXT:
            found[name] = cursor.text(*cursor.numbers("<Q"))
            continue
        _check(kind in _NUMBERS, f"{name} in the metadata has the unknown type {kind}")
        (value,) = cursor.numbers(_NUMBERS[kind])
        _check(kind != TRUTH or value < 2, f"{name} in the metadata is no truth value")
        found[name] = bool(value) if kind == TRUTH else value
    cursor.end()
    return found


Range = tuple[int, int, str]
"""Start, end, name of the tensor."""


def _directory(
    cursor: _Cursor, count: int, content: np.ndarray
) -> tuple[list[tuple[str, StoredTensor, int]], list[Range]]:
    """Names, tensors and their checksums; and what bytes they take, without what is empty."""
    found: list[tuple[str, StoredTensor, int]] = []
    taken: list[Range] = []
    name = None
    for _ in range(count):
        name = cursor.name(name)
        number, rank = cursor.numbers("<HH")
        _check(number in _BY_NUMBER, f"{name} has the unknown scheme {number}")
        _check(rank <= MAX_RANK, f"{name} has {rank} axes")
        scheme, shape = _BY_NUMBER[number], cursor.numbers(f"<{rank}Q")
        _check(math.prod(max(axis, 1) for axis in shape) < 2**60, f"{name} is too large")
        group, checksum, *places = cursor.numbers("<IIQQQQ")
        _check(group == scheme.group, f"{name} has groups of {group}")
        sizes = (places[1], places[3])
        _check(sizes == scheme.sizes(shape), f"the bytes of {name} do not fit its shape")
        parts = []
        for start, size in zip(places[::2], sizes, strict=True):
            _check(start % ALIGNMENT == 0, f"{name} is not aligned")
            _check(start + size <= len(content), f"{name} reaches beyond the file")
            parts.append(content[start : start + size])
            if size:
                taken.append((start, start + size, name))
        _check(places[3] > 0 or places[2] == 0, f"{name} has scales without bytes")
        found.append((name, StoredTensor(scheme, shape, Packed(*parts)), checksum))
    cursor.end()
    return found, taken


def _check_gaps(taken: list[Range], end: int, content: np.ndarray) -> None:
    """That ranges lie behind `end` and apart, and that there is nothing else."""
    for start, stop, name in sorted(taken):
        _check(start >= end, f"{name} overlaps what is before it")
        _check(not content[end:start].any(), f"bytes before {name} that are not zero")
        end = stop
    _check(not content[end:].any(), "bytes behind the last tensor")


def _check_aliases(file: CrystalFile) -> None:
    prefix = "alias."
    for key, value in file.metadata.items():
        if key.startswith(prefix):
            _check(value in file.tensors, f"{key} names no tensor")
            _check(key.removeprefix(prefix) not in file.tensors, f"{key} is a tensor too")


def _check(right: bool, reason: str) -> None:
    if not right:
        raise _Refused(reason)
