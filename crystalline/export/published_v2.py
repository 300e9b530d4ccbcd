"""Version 2 of the published layout: the causal model, or the blind one, in fp32.

Only the head may be int8 (`mixed8`): four floats (scale and offset of W, of b), then W and b. Which
neurons are frozen is not stored, only how many. The published writer gives every model four heads;
ours gives it its own.
"""

from __future__ import annotations

import struct

import numpy as np

from crystalline.export.published import (
    ELEMENTS,
    MAGIC,
    Flag,
    Published,
    Reader,
    Sections,
    Sizes,
    Tensors,
    constants,
    decoded,
    encoded,
    mlp_names,
    norm_names,
    read_mlp,
    read_norms,
)

VERSION = 2
_HEADER = struct.Struct("<4sHHI8HI8I")
_PARTS = ("embedding", "positions", "attention", "field", "MLP", "head", "norms")
_FIELD = ("positions", "values", "width")
_QKV = "blocks.0.attention.qkv"
_OUT = "blocks.0.attention.out"
PRECISIONS = ("float32", "mixed8")


def to_v2(tensors: Tensors, num_heads: int, *, precision: str, pruned: bool) -> bytes:
    """The file of a model.

    Args:
        tensors: Of a model with one block; `blocks.0.field.frozen` is counted.
        num_heads: Of its attention; 0: it has none.
        precision: One of `PRECISIONS`.
        pruned: Whether tokens were left out.

    Raises:
        UserError: If the model is too large for the header.
    """
    sizes = Sizes.of(tensors)
    sections = Sections()
    sections.open()
    sections.floats(tensors, "embedding.weight")
    sections.open()
    sections.floats(tensors, "position_embedding.weight")
    sections.open()
    if num_heads:
        parts = zip(
            np.split(tensors[f"{_QKV}.weight"], 3), np.split(tensors[f"{_QKV}.bias"], 3),
            strict=True,
        )  # fmt: skip
        for weight, bias in parts:
            sections.floats({"w": weight, "b": bias}, "w", "b")
        sections.floats(tensors, f"{_OUT}.weight", f"{_OUT}.bias")
    sections.open()
    sections.floats(tensors, *(f"blocks.0.field.{name}" for name in _FIELD))
    sections.open()
    sections.floats(tensors, *mlp_names())
    sections.open()
    if precision == "mixed8":
        head = [encoded(tensors[f"head.{name}"], "int8_tensor") for name in ("weight", "bias")]
        for part in (*(scales for _, scales in head), *(values for values, _ in head)):
            sections.add(part.tobytes())
    else:
        sections.floats(tensors, "head.weight", "head.bias")
    sections.open()
    norms = _norms(num_heads)
    sections.floats(tensors, *norm_names(*norms))
    flags = Flag.MIXED8 if precision == "mixed8" else Flag.FLOAT32
    flags |= (Flag.CAUSAL if num_heads else 0) | (Flag.PRUNED if pruned else 0)
    header = _HEADER.pack(
        MAGIC, VERSION, flags, sizes.vocab_size, *sizes.counts(), num_heads, len(norms), 0,
        *sections.offsets, sections.end,
    )  # fmt: skip
    return header + sections.body()


def from_v2(content: bytes, name: str) -> Published:
    """A file's model.

    Args:
        content: The whole file.
        name: Of the file, for messages.

    Raises:
        UserError: If the file is damaged, or its header contradicts itself.
    """
    reader = Reader(content, name)
    _, version, bits, vocab, *numbers = _HEADER.unpack_from(content)
    d, t, h, n, frozen, active, num_heads, num_norms = numbers[:8]
    offsets, end = dict(zip(_PARTS, numbers[9:16], strict=True)), numbers[16]
    sizes, flags = Sizes(vocab, d, t, h, n, frozen), Flag(bits)
    causal = Flag.CAUSAL in flags
    if version != VERSION:
        raise reader.refused(f"version {version} is not {VERSION}")
    if (Flag.MIXED8 in flags) == (Flag.FLOAT32 in flags) or flags & (Flag.INT16 | Flag.MIXED):
        raise reader.refused(f"flags {bits:#06x} contradict each other")
    if causal != (num_heads > 0) or num_norms != len(_norms(num_heads)):
        raise reader.refused("flags, heads and norms do not agree on whether it is causal")
    if frozen + active != n or n == 0 or end != len(content):
        raise reader.refused("its counts do not add up")
    found = constants(sizes)
    reader.open(offsets["embedding"], "embedding")
    found["embedding.weight"] = reader.floats(vocab, d)
    reader.open(offsets["positions"], "positions")
    found["position_embedding.weight"] = reader.floats(t, d)
    reader.open(offsets["attention"], "attention")
    if causal:
        found |= _read_attention(reader, d)
    reader.open(offsets["field"], "field")
    for part, shape in zip(_FIELD, ((n, d), (n, d), (n,)), strict=True):
        found[f"blocks.0.field.{part}"] = reader.floats(*shape)
    reader.open(offsets["MLP"], "MLP")
    found |= read_mlp(reader, sizes)
    reader.open(offsets["head"], "head")
    found |= _read_head(reader, sizes, int8=Flag.MIXED8 in flags)
    reader.open(offsets["norms"], "norms")
    found |= read_norms(reader, sizes, *_norms(num_heads))
    reader.end()
    return Published(sizes.arguments(num_heads), found)


def _norms(num_heads: int) -> tuple[str, ...]:
    own = ("field_norm", "mlp_norm")
    return ("attention_norm", *own) if num_heads else own


def _read_attention(reader: Reader, d: int) -> dict[str, np.ndarray]:
    weights, biases = [], []
    for _ in range(4):
        weights.append(reader.floats(d, d))
        biases.append(reader.floats(d))
    return {
        f"{_QKV}.weight": np.concatenate(weights[:3]),
        f"{_QKV}.bias": np.concatenate(biases[:3]),
        f"{_OUT}.weight": weights[3],
        f"{_OUT}.bias": biases[3],
    }


def _read_head(reader: Reader, sizes: Sizes, *, int8: bool) -> dict[str, np.ndarray]:
    scheme = "int8_tensor" if int8 else "f32"
    scales = reader.floats(2, 2) if int8 else np.zeros((2, 2))
    shapes = {"weight": (sizes.vocab_size, sizes.d_model), "bias": (sizes.vocab_size,)}
    return {
        f"head.{name}": decoded(scheme, reader.take(ELEMENTS[scheme], *shape), own)
        for (name, shape), own in zip(shapes.items(), scales, strict=True)
    }
