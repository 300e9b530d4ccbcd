"""The .crystal file, version 3: metadata and tensors by name (docs/crystal_format.md)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from crystalline.errors import UserError
from crystalline.export.checksum import crc32c
from crystalline.export.schemes import SCHEMES, Clip, Packed, Scheme
from crystalline.files import write_atomically

MAGIC = b"CRYS"
VERSION = 3
BYTE_ORDER = 0x1234
HEADER = struct.Struct("<4sHHQQQQQIII")
"""All of the header but its own checksum."""
HEADER_BYTES = HEADER.size + 4
ALIGNMENT = 64
MAX_RANK = 4
U64, F64, TEXT, TRUTH = range(4)
"""Types of metadata."""

Value = int | float | str | bool


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor as the file holds it."""

    scheme: Scheme
    shape: tuple[int, ...]
    packed: Packed

    @classmethod
    def of(cls, array: np.ndarray, scheme: str, clip: Clip = "none") -> StoredTensor:
        """The array in a scheme.

        Raises:
            ValueError: If it cannot be told in it.
        """
        if array.ndim > MAX_RANK:
            raise ValueError(f"has {array.ndim} axes, a file holds {MAX_RANK}")
        way = SCHEMES[scheme]
        return cls(way, array.shape, way.encode(array, clip))

    def array(self) -> np.ndarray:
        """What it stands for: an array of its own, fp32 for weights."""
        return self.scheme.decode(self.packed, self.shape)

    @property
    def num_bytes(self) -> int:
        return self.packed.values.size + self.packed.scales.size

    def checksum(self) -> int:
        return crc32c(self.packed.values, crc32c(self.packed.scales))


@dataclass(frozen=True)
class CrystalFile:
    """What a file says."""

    metadata: Mapping[str, Value] = field(default_factory=dict)
    tensors: Mapping[str, StoredTensor] = field(default_factory=dict)

    def tensor(self, name: str) -> StoredTensor:
        """The tensor of this name, or the one that it is tied to."""
        alias = self.metadata.get(f"alias.{name}")
        return self.tensors[name if alias is None else str(alias)]

    @property
    def num_bytes(self) -> int:
        """Of the file."""
        return self._places(HEADER_BYTES + len(self._entries()) + self._directory_bytes())[1]

    def to_bytes(self) -> bytes:
        """The file: equal contents give equal bytes."""
        metadata, names = self._entries(), sorted_names(self.tensors)
        directory_at, directory_bytes = HEADER_BYTES + len(metadata), self._directory_bytes()
        places, end = self._places(directory_at + directory_bytes)
        directory = b"".join(_row(name, self.tensors[name], *places[name]) for name in names)
        head = HEADER.pack(
            MAGIC, VERSION, BYTE_ORDER, end, HEADER_BYTES, len(metadata), directory_at,
            directory_bytes, len(self.metadata), len(names), crc32c(metadata + directory),
        )  # fmt: skip
        found = np.zeros(end, np.uint8)
        front = head + struct.pack("<I", crc32c(head)) + metadata + directory
        found[: len(front)] = np.frombuffer(front, np.uint8)
        for name in names:
            packed = self.tensors[name].packed
            for at, part in zip(places[name], packed, strict=True):
                found[at : at + part.size] = part
        return found.tobytes()

    def _entries(self) -> bytes:
        return b"".join(_entry(key, self.metadata[key]) for key in sorted_names(self.metadata))

    def _directory_bytes(self) -> int:
        return sum(_row_bytes(name, tensor) for name, tensor in self.tensors.items())

    def _places(self, end: int) -> tuple[dict[str, tuple[int, int]], int]:
        """Offsets of values and of scales by name, behind `end`, and the size of the file.

        Scales lie before the values of their tensor; what is empty has the offset 0.
        """
        places: dict[str, tuple[int, int]] = {}
        for name in sorted_names(self.tensors):
            values, scales = (part.size for part in self.tensors[name].packed)
            scales_at = aligned(end) if scales else 0
            end = max(end, scales_at + scales)
            values_at = aligned(end) if values else 0
            end = max(end, values_at + values)
            places[name] = values_at, scales_at
        return places, end


def write(path: Path, content: CrystalFile) -> None:
    """Replace the file at `path`: whole or not at all."""
    write_atomically(path, content.to_bytes())


def read(path: Path) -> CrystalFile:
    """What the file at `path` says, verified in every byte.

    Raises:
        UserError: If it is missing, damaged, of another version, or of schemes not known here.
    """
    from crystalline.export.container_reader import parse

    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    return parse(content, str(path))


def version_of(path: Path) -> int | None:
    """Version of a .crystal file; None if it is something else."""
    with path.open("rb") as file:
        start = file.read(6)
    if len(start) < 6 or start[:4] != MAGIC:
        return None
    return int.from_bytes(start[4:], "little")


def aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def sorted_names(names: Iterable[str]) -> list[str]:
    """In the order of their UTF-8 bytes."""
    return sorted(names, key=str.encode)


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<H", len(content)) + content


def _entry(key: str, value: Value) -> bytes:
    if isinstance(value, bool):
        return _text(key) + struct.pack("<BB", TRUTH, value)
    if isinstance(value, int):
        return _text(key) + struct.pack("<BQ", U64, value)
    if isinstance(value, float):
        return _text(key) + struct.pack("<Bd", F64, value)
    content = value.encode()
    return _text(key) + struct.pack("<BQ", TEXT, len(content)) + content


def _row_bytes(name: str, tensor: StoredTensor) -> int:
    return 2 + len(name.encode()) + 4 + 8 * len(tensor.shape) + 8 + 32


def _row(name: str, tensor: StoredTensor, values_at: int, scales_at: int) -> bytes:
    values, scales = tensor.packed
    return _text(name) + struct.pack(
        f"<HH{len(tensor.shape)}QIIQQQQ",
        tensor.scheme.number, len(tensor.shape), *tensor.shape, tensor.scheme.group,
        tensor.checksum(), values_at, values.size, scales_at, scales.size,
    )  # fmt: skip
