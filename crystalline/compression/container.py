"""The file that `crystalline.compress` writes: docs/compression.md."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from crystalline.compression.setting import Setting
from crystalline.errors import UserError

MAGIC = b"CRYSTALZ"
VERSION = 1
"""Raised whenever an older reader would misunderstand the file."""
_FIXED = struct.Struct("<8sB32sIQQHH")
_SUM = struct.Struct("<I")


@dataclass(frozen=True)
class Header:
    """What has to be known before the bits can be read."""

    checkpoint: str
    """SHA-256 of the checkpoint's file, in hexadecimal digits."""
    crc32: int
    """Of the original."""
    num_bytes: int
    """Of the original."""
    num_tokens: int
    setting: Setting


def pack(header: Header, payload: bytes) -> bytes:
    """The whole file."""
    it = header.setting
    words = "\n".join((it.device, it.torch, it.crystalline, it.constriction)).encode()
    fixed = _FIXED.pack(
        MAGIC, VERSION, bytes.fromhex(header.checkpoint), header.crc32, header.num_bytes,
        header.num_tokens, it.threads, len(words),
    )  # fmt: skip
    content = fixed + words + payload
    return content + _SUM.pack(zlib.crc32(content))


def unpack(content: bytes, name: str) -> tuple[Header, bytes]:
    """Header and payload of a whole file.

    Args:
        content: Of the file.
        name: What errors call it.

    Raises:
        UserError: If it is another kind of file, another version, or damaged.
    """
    if content[: len(MAGIC)] != MAGIC:
        raise UserError(f"{name} is no file that crystalline.compress wrote")
    version = content[len(MAGIC)] if len(content) > len(MAGIC) else VERSION
    if version != VERSION:
        raise UserError(f"{name} has format {version}, this version reads {VERSION}")
    body = content[: -_SUM.size]
    if len(body) < _FIXED.size or _SUM.pack(zlib.crc32(body)) != content[-_SUM.size :]:
        raise UserError(f"{name} is damaged or cut off (its checksum differs)")
    _, _, checkpoint, crc32, num_bytes, num_tokens, threads, length = _FIXED.unpack_from(body)
    payload = body[_FIXED.size + length :]
    words = body[_FIXED.size : _FIXED.size + length].decode().split("\n")
    setting = Setting(words[0], threads, *words[1:])
    return Header(checkpoint.hex(), crc32, num_bytes, num_tokens, setting), payload
