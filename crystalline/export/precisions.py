"""Named precisions: which scheme each parameter of a model gets.

`float32`: all as they are. `int16`, `int8`, `mixed16`, `mixed8` are the published ones, a scale and
an offset a tensor: every matrix, and the vectors of a neuron field and of the head; the MLP beside
a field stays fp32, and so do embeddings in the mixed ones. `int8_rows`, `int6_groups`,
`int4_groups`: every matrix that takes less room so, embeddings included. Other vectors, such as
norms, stay fp32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn

from crystalline.export.schemes import SCHEMES, Clip

EXACT = "f32"


@dataclass(frozen=True)
class Weight:
    """What a precision knows of a parameter."""

    name: str
    shape: tuple[int, ...]
    is_embedding: bool
    """Whether it is the table of an `nn.Embedding`."""
    beside_field: bool
    """Whether it is of an MLP in a block that has a neuron field."""


class Precision(ABC):
    """A rule from parameters to schemes."""

    clip: Clip | None = None
    """What `clip` is unless it is given; None where no scheme of it clips."""

    @abstractmethod
    def scheme(self, weight: Weight) -> str:
        """Name of the scheme."""


class Float32(Precision):
    """Everything as it is."""

    def scheme(self, weight: Weight) -> str:
        return EXACT


class PerTensor(Precision):
    """The published precisions.

    Args:
        scheme: Of what is rounded.
        embeddings: Whether embeddings are.
    """

    def __init__(self, scheme: str, *, embeddings: bool) -> None:
        self._scheme = scheme
        self._embeddings = embeddings

    def scheme(self, weight: Weight) -> str:
        path = weight.name.split(".")
        is_vector = len(weight.shape) < 2
        kept = (
            weight.beside_field
            or (weight.is_embedding and not self._embeddings)
            or (is_vector and path[0] != "head" and "field" not in path)
        )
        return EXACT if kept else self._scheme


class PerPart(Precision):
    """Scales of their own for each row, or for parts of rows.

    Args:
        scheme: Of what gets smaller by it.
        clip: Default of the key.
    """

    def __init__(self, scheme: str, clip: Clip) -> None:
        self._scheme = scheme
        self.clip = clip

    def scheme(self, weight: Weight) -> str:
        shrinks = len(weight.shape) > 1 and SCHEMES[self._scheme].shrinks(weight.shape)
        return self._scheme if shrinks else EXACT


PRECISIONS: dict[str, Precision] = {
    "float32": Float32(),
    "int16": PerTensor("int16_tensor", embeddings=True),
    "mixed16": PerTensor("int16_tensor", embeddings=False),
    "int8": PerTensor("int8_tensor", embeddings=True),
    "mixed8": PerTensor("int8_tensor", embeddings=False),
    "int8_rows": PerPart("int8_row", "none"),
    "int6_groups": PerPart("int6_group", "mse"),
    "int4_groups": PerPart("int4_group", "mse"),
}


def weights_of(model: nn.Module) -> dict[str, Weight]:
    """Every parameter by its name; tied ones under each of theirs."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    tables = {
        f"{path}.weight" for path, part in model.named_modules() if isinstance(part, nn.Embedding)
    }
    with_field = {name.partition(".field.")[0] for name in parameters if ".field." in name}
    return {
        name: Weight(
            name,
            tuple(parameter.shape),
            name in tables,
            ".mlp." in name and name.partition(".mlp.")[0] in with_field,
        )
        for name, parameter in parameters.items()
    }
