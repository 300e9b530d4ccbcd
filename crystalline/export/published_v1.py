"""Version 1 of the published layout: the blind model, frozen neurons before the others.

It keeps four scales and offsets: of token embeddings, positions of neurons, head and its bias. Its
own runtime decodes position embeddings by the first pair, values and temperatures by the second,
and reads temperatures in their old order beside neurons that were sorted. `from_v1` can do so too.
"""

from __future__ import annotations

import struct

import numpy as np

from crystalline.errors import UserError
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
    frozen_of,
    mlp_names,
    norm_names,
    read_mlp,
    read_norms,
)

VERSION = 1
PRECISIONS = {
    "float32": (Flag.FLOAT32, "f32", "f32"),
    "int8": (Flag(0), "int8_tensor", "int8_tensor"),
    "int16": (Flag.INT16, "int16_tensor", "int16_tensor"),
    "mixed16": (Flag.MIXED | Flag.INT16, "f32", "int16_tensor"),
    "mixed8": (Flag.MIXED8, "f32", "int8_tensor"),
}
"""Flags, scheme of embeddings, scheme of neurons and head."""
_HEADER = struct.Struct("<4sHHI10H8I")
_NORMS = ("field_norm", "mlp_norm")
_PARTS = ("scales", "patterns", "mapping", "active", "embedding", "positions", "MLP", "head")


def to_v1(tensors: Tensors, *, precision: str, pruned: bool) -> bytes:
    """The file of a model without attention.

    Args:
        tensors: Of a model with one block; `blocks.0.field.frozen` says which neurons are frozen.
        precision: One of `PRECISIONS`.
        pruned: Whether tokens were left out.

    Raises:
        UserError: If the model is too large for the header.
    """
    sizes, frozen = Sizes.of(tensors), frozen_of(tensors)
    flags, outer, inner = PRECISIONS[precision]
    tokens, of_tokens = encoded(tensors["embedding.weight"], outer)
    places, _ = encoded(tensors["position_embedding.weight"], outer)
    (positions, of_positions), (values, _), (widths, _) = (
        encoded(tensors[f"blocks.0.field.{name}"], inner)
        for name in ("positions", "values", "width")
    )
    (head, of_head), (bias, of_bias) = (
        encoded(tensors[f"head.{name}"], inner) for name in ("weight", "bias")
    )
    rows = [row.tobytes() for row in np.concatenate([positions, values], 1)]
    known: dict[bytes, int] = {}
    mapping = [known.setdefault(rows[i], len(known)) for i in frozen.nonzero()[0]]
    active = [rows[i] for i in (~frozen).nonzero()[0]]
    sections = Sections()
    sections.open()
    sections.add(np.concatenate([of_tokens, of_positions, of_head, of_bias]).tobytes())
    sections.open()
    sections.add(struct.pack("<I", len(known)) + b"".join(known))
    sections.open()
    sections.add(np.array(mapping, "<u2").tobytes())
    sections.open()
    sections.add(struct.pack("<I", len(active)) + b"".join(active))
    sections.open()
    sections.add(tokens.tobytes())
    sections.open()
    sections.add(places.tobytes() + widths.tobytes())
    sections.open()
    sections.floats(tensors, *mlp_names())
    sections.open()
    sections.add(head.tobytes() + bias.tobytes())
    sections.floats(tensors, *norm_names(*_NORMS))
    header = _HEADER.pack(
        MAGIC, VERSION, flags | (Flag.PRUNED if pruned else 0), sizes.vocab_size,
        *sizes.counts(), len(known), 2 * sizes.d_model, 0, 0, *sections.offsets,
    )  # fmt: skip
    return header + sections.body()


def from_v1(
    content: bytes, name: str, *, as_published: bool, frozen: np.ndarray | None = None
) -> Published:
    """A file's model.

    Args:
        content: The whole file.
        name: Of the file, for messages.
        as_published: Decode as the published runtime does: neurons in the file's order, what has no
            scales by those of another tensor, temperatures beside the wrong neurons.
        frozen: Which neurons are frozen, in the model's order, which is then restored. The file
            does not say it. Not used with `as_published`.

    Raises:
        UserError: If the file is damaged, or lacks what is needed to decode it as it was meant.
    """
    reader = Reader(content, name)
    _, version, bits, vocab, *numbers = _HEADER.unpack_from(content)
    d, t, h, n, num_frozen, num_active, patterns, length = numbers[:8]
    offsets: dict[str, int] = dict(zip(_PARTS, numbers[10:], strict=True))
    if version != VERSION:
        raise reader.refused(f"version {version} is not {VERSION}")
    if num_frozen + num_active != n or n == 0 or length != 2 * d:
        raise reader.refused("its counts do not add up")
    outer, inner = _schemes(bits, reader)
    sizes = Sizes(vocab, d, t, h, n, num_frozen)
    found = constants(sizes)
    reader.open(offsets["scales"], "scales")
    of_tokens, of_positions, of_head, of_bias = reader.floats(4, 2)
    neurons = _read_neurons(reader, sizes, patterns, offsets, ELEMENTS[inner])
    reader.open(offsets["embedding"], "embedding")
    tokens = reader.take(ELEMENTS[outer], vocab, d)
    reader.open(offsets["positions"], "positions")
    places = reader.take(ELEMENTS[outer], t, d)
    widths = decoded(inner, reader.take(ELEMENTS[inner], n), of_positions)
    reader.open(offsets["MLP"], "MLP")
    found |= read_mlp(reader, sizes)
    reader.open(offsets["head"], "head")
    head, bias = reader.take(ELEMENTS[inner], vocab, d), reader.take(ELEMENTS[inner], vocab)
    found |= read_norms(reader, sizes, *_NORMS)
    reader.end()
    file_order = np.arange(n) < num_frozen
    if not as_published:
        mask = _meant(inner, sizes, frozen, name)
        order = np.concatenate([mask.nonzero()[0], (~mask).nonzero()[0]])
        neurons, file_order = neurons[np.argsort(order)], mask
    points = decoded(inner, neurons, of_positions)
    return Published(
        sizes.arguments(0),
        found
        | {
            "blocks.0.field.positions": np.ascontiguousarray(points[:, :d]),
            "blocks.0.field.values": np.ascontiguousarray(points[:, d:]),
            "blocks.0.field.width": widths,
            "blocks.0.field.frozen": file_order,
            "embedding.weight": decoded(outer, tokens, of_tokens),
            "position_embedding.weight": decoded(outer, places, of_tokens),
            "head.weight": decoded(inner, head, of_head),
            "head.bias": decoded(inner, bias, of_bias),
        },
    )


def _schemes(bits: int, reader: Reader) -> tuple[str, str]:
    for flags, outer, inner in PRECISIONS.values():
        if bits & ~Flag.PRUNED == flags:
            return outer, inner
    raise reader.refused(f"flags {bits:#06x} contradict each other")


def _read_neurons(
    reader: Reader, sizes: Sizes, patterns: int, offsets: dict[str, int], element: str
) -> np.ndarray:
    """Positions and values beside each other, frozen neurons first."""
    reader.open(offsets["patterns"], "patterns")
    if int(reader.take("<u4", 1)[0]) != patterns:
        raise reader.refused("it has not as many patterns as the header says")
    shared = reader.take(element, patterns, 2 * sizes.d_model)
    reader.open(offsets["mapping"], "mapping")
    mapping = reader.take("<u2", sizes.frozen)
    if len(mapping) and int(mapping.max()) >= patterns:
        raise reader.refused("its mapping names patterns that are not there")
    reader.open(offsets["active"], "active")
    active = sizes.neurons - sizes.frozen
    if int(reader.take("<u4", 1)[0]) != active:
        raise reader.refused("it has not as many active neurons as the header says")
    return np.concatenate([shared[mapping], reader.take(element, active, 2 * sizes.d_model)])


def _meant(inner: str, sizes: Sizes, frozen: np.ndarray | None, name: str) -> np.ndarray:
    """Which neurons are frozen, where the file has all that is needed.

    Raises:
        UserError: Where it has not.
    """
    if inner != "f32":
        raise UserError(
            f"{name} has no scales of values and temperatures, so it cannot be decoded as it was "
            "meant; take as_published"
        )
    if frozen is None and 0 < sizes.frozen < sizes.neurons:
        raise UserError(f"{name} does not say which neurons are frozen; give their mask")
    mask = np.arange(sizes.neurons) < sizes.frozen if frozen is None else np.asarray(frozen, bool)
    if len(mask) != sizes.neurons or int(mask.sum()) != sizes.frozen:
        raise UserError(f"{name} has {sizes.frozen} frozen of {sizes.neurons} neurons, not these")
    return mask
