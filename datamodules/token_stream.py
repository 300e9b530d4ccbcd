"""A split as one memory-mapped array of ids: `<|endoftext|>`, then documents joined by it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from jaxtyping import Int

from crystalline.errors import UserError
from crystalline.files import atomic_path, write_atomically
from crystalline.tokenizer import Tokenizer
from datamodules.documents import Split, character_border, hash_of

FORMAT = 1
"""Raised when the content of token files changes."""
PIECE_BYTES = 2**20
"""Longer documents are encoded in pieces of about this size."""
BLOCK_BYTES = 2**23
"""About how much text is encoded at once, which bounds the memory."""

_logger = logging.getLogger(__name__)
_BORDER = re.compile(rb"(?<=\S) (?=\S)")


class TokenStream(NamedTuple):
    """The ids of a split and what they stand for."""

    ids: Int[np.ndarray, " pos"]
    """uint16, or uint32 where the vocabulary is larger; memory-mapped, read-only."""
    documents: int
    num_bytes: int
    """Bytes of all documents, separators not counted."""


def load_stream(split: Split, tokenizer: Tokenizer, folder: Path, name: str) -> TokenStream:
    """The stream of `split`, read from `folder` or encoded and written there.

    Any number of processes may ask at once: one writes, the others wait for it.
    """
    path = folder / f"{name}-{hash_of(str(FORMAT), name, split.digest, tokenizer.to_json())}.npy"
    stream = _read(path)
    if stream is not None:
        return stream
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        stream = _read(path)
        if stream is None:
            _write(path, split, tokenizer)
            stream = _read(path)
    if stream is None:
        raise UserError(f"{path} cannot be read back; check the disk or set paths.cache_dir")
    return stream


def _read(path: Path) -> TokenStream | None:
    """The stream at `path`; None unless it is there and whole."""
    try:
        facts = json.loads(path.with_suffix(".json").read_text())
        ids = np.load(path, mmap_mode="r")
    except (OSError, ValueError):
        return None
    if len(ids) != facts["tokens"]:
        return None
    return TokenStream(ids, facts["documents"], facts["bytes"])


def _write(path: Path, split: Split, tokenizer: Tokenizer) -> None:
    """Encode with bounded memory; the facts are written last and make the file valid."""
    _logger.info("Encoding %s: %d documents, %.1f MB", path.stem, len(split), split.num_bytes / 1e6)
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
    count = 0
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        _write_header(file, dtype, 0)
        begin = file.tell()
        for ids in _encoded(split, tokenizer):
            file.write(np.asarray(ids, dtype).tobytes())
            count += len(ids)
        file.seek(0)
        _write_header(file, dtype, count)
        if file.tell() != begin:
            raise AssertionError("the header of a .npy file changed its length")
    facts = {"tokens": count, "documents": len(split), "bytes": split.num_bytes}
    write_atomically(path.with_suffix(".json"), json.dumps(facts))


def _write_header(file, dtype: np.dtype, count: int) -> None:
    """NumPy pads headers so that a longer shape fits in place."""
    header = {"descr": dtype.str, "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, header)


def _encoded(split: Split, tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Ids in order, a block of text at a time."""
    block: list[bytes | None] = []
    size = 0
    for document in split:
        block.append(None)  # stands for <|endoftext|>
        for piece in pieces(document):
            block.append(piece)
            size += len(piece)
            if size >= BLOCK_BYTES:
                yield from _encoded_block(block, tokenizer)
                block, size = [], 0
    yield from _encoded_block(block, tokenizer)


def _encoded_block(block: list[bytes | None], tokenizer: Tokenizer) -> Iterator[list[int]]:
    encoded = iter(tokenizer.encode_bytes([piece for piece in block if piece is not None]))
    for piece in block:
        yield [tokenizer.eot_id] if piece is None else next(encoded)


def pieces(document: memoryview) -> Iterator[bytes]:
    """A document in parts of about `PIECE_BYTES`, cut where no token of a BPE crosses.

    That is before a single space between two words, where pre-tokenizers cut too. Where there is
    no such place near, the cut is between two characters.
    """
    start = 0
    while len(document) - start > PIECE_BYTES:
        end = start + PIECE_BYTES
        borders = [m.start() for m in _BORDER.finditer(document[:end], max(start + 1, end - 4096))]
        cut = borders[-1] if borders else character_border(document, end)
        yield bytes(document[start:cut])
        start = cut
    yield bytes(document[start:])
