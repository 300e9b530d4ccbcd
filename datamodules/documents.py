"""Documents: byte ranges of files, split before anything else looks at them."""

from __future__ import annotations

import codecs
import hashlib
import mmap
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from crystalline.errors import UserError

MAPPED_BYTES = 2**24
"""Files above this size are mapped, not read: a corpus may be larger than memory."""

_SEPARATOR = re.compile(rb"(?m)^[ \t]*<\|endoftext\|>[ \t\r]*$")


class Document(NamedTuple):
    """A named text, or any other bytes."""

    name: str
    """Path below the corpus's folder, without its suffix; a title; or a number."""
    content: memoryview

    def part(self, start: int, stop: int) -> Document:
        return Document(self.name, self.content[start:stop])


class Split(Sequence[memoryview]):
    """The documents of one split, in order; documents without content are left out."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self._contents = [document.content for document in documents if len(document.content)]

    def __len__(self) -> int:
        return len(self._contents)

    def __getitem__(self, index):
        return self._contents[index]

    @cached_property
    def num_bytes(self) -> int:
        return sum(len(content) for content in self._contents)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all documents with their lengths."""
        digest = hashlib.sha256()
        for content in self._contents:
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
        return digest.hexdigest()


def hash_of(*parts: str) -> str:
    """16 hexadecimal digits that name these texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def find_files(path: Path, pattern: str = "*") -> list[Path]:
    """`path` itself, or all files below it that match and are not hidden, by name."""
    if path.is_file():
        return [path]
    files = (file for file in path.rglob(pattern) if file.is_file())
    return sorted(f for f in files if not any(p.startswith(".") for p in f.relative_to(path).parts))


def read_files(path: Path, pattern: str = "*") -> list[Document]:
    """One document a file."""
    root = path.parent if path.is_file() else path
    return [
        Document(file.relative_to(root).with_suffix("").as_posix(), read_bytes(file))
        for file in find_files(path, pattern)
    ]


def read_bytes(path: Path) -> memoryview:
    """The content of a file, mapped into memory where it is large."""
    with path.open("rb") as file:
        if path.stat().st_size > MAPPED_BYTES:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return memoryview(file.read())


def is_utf8(content: memoryview) -> bool:
    """Whether bytes are UTF-8 text."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(content), MAPPED_BYTES):
            decoder.decode(content[start : start + MAPPED_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def require_text(documents: list[Document], path: Path) -> list[Document]:
    """The documents themselves.

    Raises:
        UserError: If one is not UTF-8, or none has content.
    """
    for document in documents:
        if not is_utf8(document.content):
            raise UserError(f"{path}: {document.name} is not UTF-8 text; use data=bytes")
    if not any(document.content for document in documents):
        raise UserError(f"{path} holds no text; name a UTF-8 file or folder by data.path")
    return documents


def separated(document: Document) -> list[Document]:
    """The documents between lines `<|endoftext|>`, stripped; one without such lines stays whole."""
    if _SEPARATOR.search(document.content) is None:
        return [document]
    return [
        Document(f"{document.name}-{number:07}", content)
        for number, content in enumerate(_between_separators(document.content))
        if content
    ]


def _between_separators(content: memoryview) -> Iterator[memoryview]:
    start = 0
    for match in _SEPARATOR.finditer(content):
        yield _stripped(content, start, match.start())
        start = match.end()
    yield _stripped(content, start, len(content))


def _stripped(content: memoryview, start: int, stop: int) -> memoryview:
    while start < stop and content[start] in b" \t\r\n":
        start += 1
    while start < stop and content[stop - 1] in b" \t\r\n":
        stop -= 1
    return content[start:stop]


def character_border(content: memoryview, place: int) -> int:
    """`place`, or the start of the UTF-8 character that it would cut."""
    for back in range(1, 4):
        if not 0 < place < len(content) or content[place] & 0xC0 != 0x80 or back > place:
            break
        if content[place - back] >= 0xC0:
            return place - back
    return place
