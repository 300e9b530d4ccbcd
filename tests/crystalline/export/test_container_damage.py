"""Damaged and made-up files: one line each, and never anything else."""

import struct

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crystalline.errors import UserError
from crystalline.export.checksum import crc32c
from crystalline.export.container_reader import parse
from tests.crystalline.export.files import small_file

CONTENT = small_file(**{"alias.head": "t.f32"}).to_bytes()
PLACES = st.integers(0, len(CONTENT) - 1)
CAMPAIGNS = [pytest.param(20), pytest.param(3000, marks=pytest.mark.fuzz)]


def refused(content: bytes) -> str:
    with pytest.raises(UserError) as error:
        parse(np.frombuffer(content, np.uint8), "it")
    (line,) = str(error.value).splitlines()
    return line


def resealed(content: bytearray) -> bytes:
    """With the checksums of header and directory as they should be."""
    metadata_at, metadata_bytes, at, size = struct.unpack_from("<QQQQ", content, 16)
    covered = content[metadata_at : metadata_at + metadata_bytes] + content[at : at + size]
    struct.pack_into("<I", content, 56, crc32c(bytes(covered)))
    struct.pack_into("<I", content, 60, crc32c(bytes(content[:60])))
    return bytes(content)


@pytest.mark.parametrize("examples", CAMPAIGNS)
def test_a_file_that_is_cut_off_is_refused(examples):
    @given(PLACES)
    @settings(max_examples=examples, deadline=None)
    def check(size):
        refused(CONTENT[:size])

    check()


@pytest.mark.parametrize("examples", CAMPAIGNS)
def test_every_changed_byte_is_noticed(examples):
    @given(PLACES, st.integers(1, 255))
    @example(len(CONTENT) - 1, 1)
    @example(63, 128)
    @settings(max_examples=examples, deadline=None)
    def check(place, change):
        content = bytearray(CONTENT)
        content[place] ^= change
        refused(bytes(content))

    check()


@pytest.mark.parametrize("examples", CAMPAIGNS)
def test_a_directory_that_lies_is_refused_or_harmless(examples):
    first, last = struct.unpack_from("<Q", CONTENT, 32)[0], struct.unpack_from("<Q", CONTENT, 40)[0]

    @given(st.integers(8, first + last - 1), st.binary(min_size=1, max_size=8))
    @settings(max_examples=examples, deadline=None)
    def check(place, change):
        content = bytearray(CONTENT)
        content[place : place + len(change)] = change
        try:
            file = parse(np.frombuffer(resealed(content), np.uint8), "it")
        except UserError:
            return
        for tensor in file.tensors.values():
            tensor.array()

    check()


NAME = CONTENT.index(b"t.int4_group", struct.unpack_from("<Q", CONTENT, 32)[0]) + 12
"""Of a tensor of rank 3: behind its name."""


@pytest.mark.parametrize(
    ("place", "layout", "value", "reason"),
    [
        (0, "4s", b"CRYX", "does not start with CRYS"),
        (4, "<H", 4, "version 4"),
        (6, "<H", 0x3412, "byte order"),
        (8, "<Q", 1, "instead of 1"),
        (16, "<Q", 65, "do not follow"),
        (40, "<Q", 2**63, "do not fit"),
        (48, "<I", 2**32 - 1, "the metadata is cut off"),
        (52, "<I", 1, "longer than its entries"),
        (NAME, "<H", 7, "unknown scheme 7"),
        (NAME + 2, "<H", 5, "5 axes"),
        (NAME + 4, "<Q", 2**62, "too large"),
        (NAME + 4, "<Q", 4, "do not fit its shape"),
        (NAME + 28, "<I", 64, "groups of 64"),
        (NAME + 32, "<I", 0, "the checksum of t.int4_group differs"),
        (NAME + 36, "<Q", 65, "not aligned"),
        (NAME + 36, "<Q", 0, "overlaps"),
        (NAME + 36, "<Q", 2**40, "beyond the file"),
        (len(CONTENT) - 1, "B", 200, "checksum of t.u8 differs"),
    ],
)
def test_what_is_wrong_is_said(place, layout, value, reason):
    content = bytearray(CONTENT)
    struct.pack_into(layout, content, place, value)
    assert bytes(content) != CONTENT
    assert reason in refused(resealed(content))


def test_bytes_in_gaps_are_refused():
    content = bytearray(CONTENT)
    start, size = struct.unpack_from("<QQ", content, 32)
    assert (start + size) % 64
    content[start + size] = 1
    assert "not zero" in refused(bytes(content))
    longer = bytearray(CONTENT + b"x")
    struct.pack_into("<Q", longer, 8, len(longer))
    assert "behind the last tensor" in refused(resealed(longer))
