"""Model files of version 3, written down from the format's description alone."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crystalline.models.crystal import Crystal
from tests.crystalline.export.runtime.schemes import NUMBERS, Stored, plain, stored

_TABLE = np.arange(256, dtype=np.uint32)
for _ in range(8):
    _TABLE = np.where(_TABLE & 1, _TABLE >> 1 ^ 0x82F63B78, _TABLE >> 1)
_STEPS: list[int] = _TABLE.tolist()


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _STEPS[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def file_bytes(metadata: Mapping[str, Any], tensors: Mapping[str, Stored]) -> bytes:
    """A file; metadata values are int, float, str or bool."""
    entries = b"".join(_entry(key, metadata[key]) for key in sorted(metadata, key=str.encode))
    names = sorted(tensors, key=str.encode)
    directory_size = sum(2 + len(n.encode()) + 44 + 8 * len(tensors[n].shape) for n in names)
    start = 64 + len(entries)
    data, directory = bytearray(), b""
    base = -(-(start + directory_size) // 64) * 64

    def put(part: bytes) -> tuple[int, int]:
        if not part:
            return 0, 0
        data.extend(bytes(-len(data) % 64))
        place = base + len(data)
        data.extend(part)
        return place, len(part)

    for name in names:
        t = tensors[name]
        scales, values = put(t.scales), put(t.values)
        directory += _text(name) + struct.pack("<HH", NUMBERS[t.scheme], len(t.shape))
        directory += struct.pack(f"<{len(t.shape)}Q", *t.shape)
        directory += struct.pack("<II", t.group, crc32c(t.scales + t.values))
        directory += struct.pack("<QQQQ", *(values if t.values else (base, 0)), *scales)
    whole = base + len(data)
    header = struct.pack(
        "<4sHHQQQQQIII", b"CRYS", 3, 0x1234, whole, 64, len(entries), start, len(directory),
        len(metadata), len(names), crc32c(entries + directory),
    )  # fmt: skip
    header += struct.pack("<I", crc32c(header))
    body = header + entries + directory
    return body + bytes(base - len(body)) + bytes(data)


def _text(text: str) -> bytes:
    return struct.pack("<H", len(text.encode())) + text.encode()


def _entry(key: str, value: Any) -> bytes:
    if isinstance(value, bool):
        return _text(key) + struct.pack("<BB", 3, value)
    if isinstance(value, int):
        return _text(key) + struct.pack("<BQ", 0, value)
    if isinstance(value, float):
        return _text(key) + struct.pack("<Bd", 1, value)
    return _text(key) + struct.pack("<BQ", 2, len(value.encode())) + value.encode()


def architecture(model: Crystal) -> dict[str, Any]:
    """The metadata from which the runtime knows the model."""
    attends = model.switches.attention != "none"
    found = {
        "runtime.arch": "crystal",
        "runtime.vocab_size": model.vocab_size,
        "runtime.context_length": model.context_length,
        "runtime.d_model": model.embedding.embedding_dim,
        "runtime.d_mlp": model.blocks[0].mlp.up.out_features,
        "runtime.num_layers": len(model.blocks),
        "runtime.num_heads": model.num_heads if attends else 0,
        "runtime.norm_eps": 1e-5,
        "runtime.activation": "gelu_erf",
        "runtime.width": model.switches.width,
        "runtime.width_factor": float(model.blocks[0].field.reach),
        "runtime.final_norm": model.norm is not None,
        "runtime.head_bias": model.head.bias is not None,
    }
    if model.switches.null_slot == "guard":
        found["runtime.null_logit"] = float(np.log(1e-8))
    return found


def write_model(
    path: Path,
    model: Crystal,
    scheme: Callable[[str], str] = lambda name: "f32",
    extra: Mapping[str, Any] | None = None,
    tables: Mapping[str, Stored] | None = None,
) -> None:
    """Write the model and give it the weights that the file stands for.

    Args:
        path: Where to.
        model: Its parameters are replaced by what their scheme leaves of them.
        scheme: Of a parameter, by its name.
        extra: More metadata.
        tables: The tokenizer's.
    """
    metadata = architecture(model) | dict(extra or {})
    tensors = dict(tables or {})
    learned = dict(model.named_parameters())
    for name, value in model.state_dict().items():
        if name in learned:
            tensors[name] = stored(value.numpy(), scheme(name))
            with torch.no_grad():
                learned[name].copy_(torch.from_numpy(tensors[name].meaning))
        elif ".field." in name or name == "head.weight":
            tensors[name] = plain(value.numpy())
    if model.head.bias is None and model.head.weight is model.embedding.weight:
        del tensors["head.weight"]
        metadata["alias.head.weight"] = "embedding.weight"
    path.write_bytes(file_bytes(metadata, tensors))
