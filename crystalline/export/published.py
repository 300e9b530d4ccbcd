"""What the two published .crystal layouts share: 64 bytes of header, then sections without gaps.

They hold the weights of one model: a block with a neuron field and an MLP, behind it a head with a
bias, no norm before it. There is no checksum, no tokenizer and no configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, NamedTuple

import numpy as np

from crystalline.errors import UserError
from crystalline.export.schemes import SCHEMES

MAGIC = b"CRYS"
HEADER_BYTES = 64
MAX_COUNT = 2**16 - 1
"""Of everything but tokens."""

Tensors = Mapping[str, np.ndarray]
"""By the names of docs/crystal_format.md, fp32."""


class Flag(IntFlag):
    """Of the header."""

    PRUNED = 0x0004
    FLOAT32 = 0x0008
    INT16 = 0x0010
    MIXED = 0x0020
    MIXED8 = 0x0040
    CAUSAL = 0x0080


class Published(NamedTuple):
    """What a file says."""

    arguments: dict[str, Any]
    """Of `Crystal`, that builds a model for `tensors`."""
    tensors: dict[str, np.ndarray]


@dataclass(frozen=True)
class Sizes:
    """V, D, T, H, N, and how many neurons are frozen."""

    vocab_size: int
    d_model: int
    context_length: int
    d_mlp: int
    neurons: int
    frozen: int

    @classmethod
    def of(cls, tensors: Tensors) -> Sizes:
        """Of a model's tensors.

        Raises:
            UserError: If a count has no room in the header.
        """
        vocab_size, d_model = tensors["embedding.weight"].shape
        found = cls(
            vocab_size,
            d_model,
            len(tensors["position_embedding.weight"]),
            len(tensors["blocks.0.mlp.up.weight"]),
            len(tensors["blocks.0.field.width"]),
            int(frozen_of(tensors).sum()),
        )
        if max(found.counts()) > MAX_COUNT or vocab_size >= 2**32:
            raise UserError(
                f"the published layouts count to {MAX_COUNT}, this model is larger; "
                "take layout=crystal"
            )
        return found

    def counts(self) -> tuple[int, ...]:
        """D, T, H, N, frozen, active: as in the header."""
        active = self.neurons - self.frozen
        return (
            self.d_model, self.context_length, self.d_mlp, self.neurons, self.frozen, active,
        )  # fmt: skip

    def arguments(self, num_heads: int) -> dict[str, Any]:
        """Of `Crystal`; 0 heads: no attention."""
        found = {
            "vocab_size": self.vocab_size, "context_length": self.context_length,
            "d_model": self.d_model, "d_mlp": self.d_mlp, "num_layers": 1, "epochs": 0,
            "capacity": self.neurons, "founders": self.neurons,
            "num_codes": min(4, self.neurons), "mode": "faithful",
            "attention": "first" if num_heads else "none",
        }  # fmt: skip
        return found | ({"num_heads": num_heads} if num_heads else {})


def frozen_of(tensors: Tensors) -> np.ndarray:
    """Which neurons are frozen; none where the model does not say."""
    names = "blocks.0.field.frozen", "blocks.0.field.width"
    return np.asarray(tensors.get(names[0], np.zeros(len(tensors[names[1]]), bool)), bool)


class Sections:
    """The body of a file that is written."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.end = HEADER_BYTES
        self.offsets: list[int] = []
        """Where each section that was opened begins."""

    def open(self) -> None:
        self.offsets.append(self.end)

    def add(self, content: bytes) -> None:
        self._parts.append(content)
        self.end += len(content)

    def floats(self, tensors: Tensors, *names: str) -> None:
        for name in names:
            self.add(np.ascontiguousarray(tensors[name], "<f4").tobytes())

    def body(self) -> bytes:
        return b"".join(self._parts)


class Reader:
    """The body of a file that is read.

    Args:
        content: The whole file.
        name: Of the file, for messages.
    """

    def __init__(self, content: bytes, name: str) -> None:
        self._content = content
        self._name = name
        self._at = HEADER_BYTES
        if len(content) < HEADER_BYTES or content[:4] != MAGIC:
            raise self.refused("it has no header")

    def refused(self, reason: str) -> UserError:
        return UserError(f"{self._name} is damaged or no published model file: {reason}")

    def open(self, offset: int, what: str) -> None:
        """Begin a section that the header puts at `offset`."""
        if offset != self._at:
            raise self.refused(f"section {what} is at {self._at}, the header says {offset}")

    def take(self, dtype: str, *shape: int) -> np.ndarray:
        """The next numbers.

        Raises:
            UserError: If the file ends before.
        """
        size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        if size > len(self._content) - self._at:
            raise self.refused("it is cut off")
        found = np.frombuffer(self._content[self._at : self._at + size], dtype)
        self._at += size
        return found.reshape(shape)

    def floats(self, *shape: int) -> np.ndarray:
        return self.take("<f4", *shape).astype(np.float32)

    def end(self) -> None:
        if self._at != len(self._content):
            raise self.refused(f"{len(self._content) - self._at} bytes behind the last section")


def mlp_names() -> tuple[str, ...]:
    return tuple(
        f"blocks.0.mlp.{part}.{kind}" for part in ("up", "down") for kind in ("weight", "bias")
    )


def norm_names(*norms: str) -> tuple[str, ...]:
    return tuple(f"blocks.0.{norm}.{kind}" for norm in norms for kind in ("weight", "bias"))


def read_mlp(reader: Reader, sizes: Sizes) -> dict[str, np.ndarray]:
    d, h = sizes.d_model, sizes.d_mlp
    shapes = (h, d), (h,), (d, h), (d,)
    return {n: reader.floats(*shape) for n, shape in zip(mlp_names(), shapes, strict=True)}


def read_norms(reader: Reader, sizes: Sizes, *norms: str) -> dict[str, np.ndarray]:
    return {name: reader.floats(sizes.d_model) for name in norm_names(*norms)}


def constants(sizes: Sizes) -> dict[str, np.ndarray]:
    """What the model has and a published field has not: masses and scales that do nothing."""
    n = sizes.neurons
    return {
        "blocks.0.field.log_mass": np.zeros(n, np.float32),
        "blocks.0.field.scale": np.ones(n, np.float32),
    }


def decoded(scheme: str, values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Integers with a scale and an offset, or floats, as fp32."""
    if scheme == "f32":
        return values.astype(np.float32)
    return values.astype(np.float32) * np.float32(scales[0]) + np.float32(scales[1])


ELEMENTS = {"f32": "<f4", "int16_tensor": "<i2", "int8_tensor": "i1"}
"""Types of elements by their schemes."""


def encoded(array: np.ndarray, scheme: str) -> tuple[np.ndarray, np.ndarray]:
    """Elements, and their scale and offset: 1 and 0 where there are none."""
    packed = SCHEMES[scheme].encode(np.asarray(array, np.float32))
    scales = packed.scales.view("<f4") if packed.scales.size else np.array([1, 0], "<f4")
    return packed.values.view(ELEMENTS[scheme]).reshape(array.shape), scales
