"""Shards of token ids: 256 little-endian int32 (magic, version, count), then uint16 ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Integer

from crystalline.errors import UserError
from crystalline.files import atomic_path

MAGIC, VERSION = 20240520, 1
HEADER_WORDS = 256
_WORD, _ID = np.dtype("<i4"), np.dtype("<u2")
_HEADER_BYTES = HEADER_WORDS * _WORD.itemsize

Ids = Integer[np.ndarray, " pos"]


def write_shard(path: Path, ids: Ids) -> None:
    """Replace `path` by a shard of these ids.

    Raises:
        ValueError: If an id does not fit into 16 bits.
    """
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < 2**16:
        raise ValueError("shards hold ids in [0, 65536)")
    header = np.zeros(HEADER_WORDS, _WORD)
    header[:3] = MAGIC, VERSION, len(ids)
    with atomic_path(path) as temporary:
        temporary.write_bytes(header.tobytes() + ids.astype(_ID).tobytes())


def read_shard(path: Path) -> Ids:
    """The ids of a shard, uint16, memory-mapped, read-only.

    Raises:
        UserError: If the file is no shard, or not whole.
    """
    size = path.stat().st_size
    if size < _HEADER_BYTES:
        raise UserError(f"{path} is no shard: it is shorter than a header")
    magic, version, count = np.fromfile(path, _WORD, 3).tolist()
    if (magic, version) != (MAGIC, VERSION):
        raise UserError(f"{path} is no shard of version {VERSION}: its header says otherwise")
    if size != _HEADER_BYTES + count * _ID.itemsize:
        raise UserError(f"{path} is damaged: it should hold {count} ids")
    return np.memmap(path, _ID, "r", offset=_HEADER_BYTES, shape=(count,))
