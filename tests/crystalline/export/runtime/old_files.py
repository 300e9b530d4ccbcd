"""Files of version 1 and 2, and the models that they mean, written down from their layout alone."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch

from crystalline.models.crystal import Crystal
from tests.crystalline.export.runtime.schemes import stored

F32, INT16, MIXED, MIXED8, CAUSAL = 0x08, 0x10, 0x20, 0x40, 0x80
MODES = {
    "float32": (F32, "f32", "f32"),
    "int8": (0, "int8_tensor", "int8_tensor"),
    "int16": (INT16, "int16_tensor", "int16_tensor"),
    "mixed": (MIXED | INT16, "f32", "int16_tensor"),
    "mixed8": (MIXED8, "f32", "int8_tensor"),
}
"""Flags, scheme of the embeddings, scheme of neurons, temperatures and head."""


class _Weights:
    """Arrays of a model by their names, and their change."""

    def __init__(self, model: Crystal) -> None:
        self.own = dict(model.named_parameters())
        (self.block,) = model.blocks
        self.sizes = (model.vocab_size, model.embedding.embedding_dim, model.context_length,
                      self.block.mlp.up.out_features)  # fmt: skip

    def __getitem__(self, name: str) -> np.ndarray:
        return self.own[name].detach().numpy()

    def f32(self, *names: str) -> bytes:
        return b"".join(self[f"blocks.0.{name}"].tobytes() for name in names)

    def replace(self, name: str, value: np.ndarray) -> None:
        with torch.no_grad():
            self.own[name].copy_(torch.from_numpy(np.ascontiguousarray(value)))

    def norm(self, name: str) -> bytes:
        return self.f32(f"{name}.weight", f"{name}.bias")

    def mlp(self) -> bytes:
        return self.f32("mlp.up.weight", "mlp.up.bias", "mlp.down.weight", "mlp.down.bias")


def write_v2(path: Path, model: Crystal, mixed8: bool = False) -> None:
    """Write version 2; an int8 head replaces the model's."""
    w = _Weights(model)
    vocab, width, length, hidden = w.sizes
    causal = w.block.attention is not None
    attention, head = b"", w["head.weight"].tobytes() + w["head.bias"].tobytes()
    if causal:
        qkv = np.split(w["blocks.0.attention.qkv.weight"], 3)
        biases = np.split(w["blocks.0.attention.qkv.bias"], 3)
        pairs = zip(qkv, biases, strict=True)
        attention = b"".join(part.tobytes() for pair in pairs for part in pair)
        attention += w.f32("attention.out.weight", "attention.out.bias")
    if mixed8:
        weight, bias = (stored(w[f"head.{name}"], "int8_tensor") for name in ("weight", "bias"))
        head = weight.scales + bias.scales + weight.values + bias.values
        w.replace("head.weight", weight.meaning)
        w.replace("head.bias", bias.meaning)
    norms = w.norm("attention_norm") if causal else b""
    norms += w.norm("field_norm") + w.norm("mlp_norm")
    field = w.f32("field.positions", "field.values", "field.width")
    embeddings = [w[name].tobytes() for name in ("embedding.weight", "position_embedding.weight")]
    sections = [*embeddings, attention, field, w.mlp(), head, norms]
    offsets = [64 + sum(map(len, sections[:i])) for i in range(len(sections) + 1)]
    flags = (MIXED8 if mixed8 else F32) | (CAUSAL if causal else 0)
    neurons = w.block.field.capacity
    header = struct.pack(
        "<4sHHIHHHHHHHHI8I", b"CRYS", 2, flags, vocab, width, length, hidden, neurons, 3,
        neurons - 3, model.num_heads if causal else 0, 3 if causal else 2, 0, *offsets,
    )  # fmt: skip
    path.write_bytes(header + b"".join(sections))


def write_v1(path: Path, model: Crystal, mode: str, frozen: np.ndarray) -> None:
    """Write version 1, and give the model the weights that its runtime reads: see `_as_read`."""
    w = _Weights(model)
    vocab, width, length, hidden = w.sizes
    flags, outer, inner = MODES[mode]
    embedding = stored(w["embedding.weight"], outer)
    places = stored(w["position_embedding.weight"], outer)
    parts = {
        name: stored(w[f"blocks.0.field.{name}"], inner)
        for name in ("positions", "values", "width")
    }
    head = {name: stored(w[f"head.{name}"], inner) for name in ("weight", "bias")}
    element = 4 if inner == "f32" else int(inner[3:].split("_")[0]) // 8
    rows = np.concatenate([
        np.frombuffer(parts[name].values, np.uint8).reshape(-1, width * element)
        for name in ("positions", "values")
    ], 1)  # fmt: skip
    patterns, mapping = np.unique(rows[frozen], axis=0, return_inverse=True)
    active = rows[~frozen]
    scaled = (embedding, parts["positions"], head["weight"], head["bias"])
    scales = b"".join(part.scales or struct.pack("<2f", 1, 0) for part in scaled)
    sections = [
        scales,
        struct.pack("<I", len(patterns)) + patterns.tobytes(),
        mapping.astype(np.uint16).tobytes(),
        struct.pack("<I", len(active)) + active.tobytes(),
        embedding.values,
        places.values + parts["width"].values,
        w.mlp(),
        head["weight"].values + head["bias"].values + w.norm("field_norm") + w.norm("mlp_norm"),
    ]
    offsets = [64 + sum(map(len, sections[:i])) for i in range(len(sections))]
    header = struct.pack(
        "<4sHHI10H8I", b"CRYS", 1, flags, vocab, width, length, hidden, len(frozen),
        int(frozen.sum()), len(active), len(patterns), 2 * width, 0, 0, *offsets,
    )  # fmt: skip
    path.write_bytes(header + b"".join(sections))
    order = np.concatenate([frozen.nonzero()[0], (~frozen).nonzero()[0]])
    neurons, tokens = parts["positions"].scales, embedding.scales
    w.replace("embedding.weight", embedding.meaning)
    w.replace("position_embedding.weight", _as_read(places, tokens))
    w.replace("blocks.0.field.positions", parts["positions"].meaning[order])
    w.replace("blocks.0.field.values", _as_read(parts["values"], neurons)[order])
    w.replace("blocks.0.field.width", _as_read(parts["width"], neurons))
    for name, part in head.items():
        w.replace(f"head.{name}", part.meaning)


def _as_read(part, scales: bytes) -> np.ndarray:
    """With another tensor's scale and offset, as version 1 keeps none of its own."""
    if not scales:
        return part.meaning
    scale, offset = np.frombuffer(scales, np.float32)
    kind = np.int8 if part.scheme == "int8_tensor" else np.int16
    return np.frombuffer(part.values, kind).reshape(part.shape).astype(np.float32) * scale + offset
