"""What a compressed file costs, beside what the model foretold and what others make of it."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Mapping
from typing import Any

from crystalline.compression.coder import Encoded

OTHERS = {
    "zlib": lambda content: zlib.compress(content, 9),
    "bz2": lambda content: bz2.compress(content, 9),
    "lzma": lambda content: lzma.compress(content, preset=9 | lzma.PRESET_EXTREME),
}


def figures(content: bytes, packed: bytes, encoded: Encoded, elapsed_s: float) -> dict[str, Any]:
    """Sizes in bytes, "bits_per_byte" of the whole file, "model_bits" by kind of symbol.

    Args:
        content: The original.
        packed: The compressed file.
        encoded: What it carries.
        elapsed_s: Seconds that the coding took.
    """
    return {
        "original_bytes": len(content),
        "compressed_bytes": len(packed),
        "header_bytes": len(packed) - len(encoded.payload),
        "bits_per_byte": _rate(8 * len(packed), len(content)),
        "model_bits": encoded.bits,
        "bytes_per_second": len(content) / elapsed_s,
        **{f"{name}_bytes": len(pack(content)) for name, pack in OTHERS.items()},
    }


def table(found: Mapping[str, Any]) -> str:
    """The figures as lines: what, bytes, bits per byte of the original."""
    original, bits = found["original_bytes"], found["model_bits"]
    total = sum(bits.values())
    parts = ", ".join(f"{kind} {spent:.0f}" for kind, spent in bits.items())
    rows = {
        "original": 8 * original,
        "compressed": 8 * found["compressed_bytes"],
        "  of which header": 8 * found["header_bytes"],
        "the model's own bits": total,
        **{name: 8 * found[f"{name}_bytes"] for name in OTHERS},
    }
    lines = [f"{'':<22}{'bytes':>12}{'bits per byte':>16}"]
    for name, cost in rows.items():
        rate = _rate(cost, original)
        lines.append(f"{name:<22}{cost / 8:>12.0f}{'-' if rate is None else f'{rate:.4f}':>16}")
    lines.append(f"bits by kind: {parts or 'none'}; {found['bytes_per_second']:.0f} bytes/s")
    return "\n".join(lines)


def _rate(bits: float, num_bytes: int) -> float | None:
    return bits / num_bytes if num_bytes else None
