"""CRC-32C against its published values, and fast against plain."""

import numpy as np
import pytest

from crystalline.export import checksum
from crystalline.export.checksum import crc32c


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_published_values(content, expected):
    assert crc32c(content) == expected


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 4097, 65537])
def test_lanes_agree_with_bytes_one_after_another(size, monkeypatch):
    content = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    plain = checksum._plain(content.tobytes(), 0)
    monkeypatch.setattr(checksum, "_SHORT", 0)
    assert crc32c(content) == plain
    assert crc32c(content[size // 3 :], crc32c(content[: size // 3])) == plain
