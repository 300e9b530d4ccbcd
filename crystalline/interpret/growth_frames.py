"""A compact record of a field of neurons while it grows: snapshots, losses, samples of text.

Positions are kept as fp16, whole frames one after the other, so that a record of 61 snapshots of up
to 800 neurons of 128 coordinates takes some 8 MB.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int
from torch import Tensor

from crystalline.errors import UserError
from crystalline.files import write_atomically

COLUMNS = {
    "row": np.int32,
    "parent": np.int32,
    "birth": np.int32,
    "frozen": np.bool_,
    "activity": np.float32,
    "scale": np.float32,
    "rate": np.float32,
    "positions": np.float16,
}
"""What is kept of each neuron; see `LanguageModel.census`."""

Members = Mapping[str, np.ndarray]
"""The columns of the neurons of one field, a neuron a row."""


@dataclass(frozen=True)
class Frame:
    """One snapshot."""

    epoch: int
    """Epochs that had ended."""
    fields: Mapping[str, Members]
    """By site."""
    text: str = ""
    """What the model wrote then."""


@dataclass
class GrowthRecord:
    """Snapshots in their order, and curves of training.

    Args:
        epochs: Of the whole training.
        frames: By rising epoch.
        losses: By name: points (epoch, nats a token).
    """

    epochs: int
    frames: list[Frame] = field(default_factory=list)
    losses: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def add(self, epoch: int, census: Mapping[str, Mapping[str, Tensor]], text: str = "") -> None:
        """Append a snapshot: what `LanguageModel.census` answers, and perhaps a text."""
        fields = {
            site: {name: found[name].numpy().astype(kind) for name, kind in COLUMNS.items()}
            for site, found in census.items()
        }
        self.frames.append(Frame(epoch, fields, text))

    def note_loss(self, name: str, epoch: float, value: float) -> None:
        """Append a point of a curve."""
        self.losses.setdefault(name, []).append((epoch, value))

    def sites(self) -> list[str]:
        """Every field of any frame, in the order of their first appearance."""
        return list(dict.fromkeys(site for frame in self.frames for site in frame.fields))

    def save(self, path: Path) -> None:
        """Write the record as one .npz file, whole or not at all.

        Raises:
            OSError: If the disk is full.
        """
        write_atomically(path, self.to_bytes())

    @classmethod
    def load(cls, path: Path) -> GrowthRecord:
        """Read what `save` has written.

        Raises:
            UserError: If there is no such file, or it is no record.
        """
        try:
            return cls.from_bytes(path.read_bytes())
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
            raise UserError(f"{path} is no record of growth; a run writes growth.npz") from None

    def to_bytes(self) -> bytes:
        """The .npz file: `epochs`; `epoch` and `text` of each frame; `sites`.

        `loss/<name>` has points as rows; `<site>/count` says how many rows of `<site>/<column>`
        each frame has.
        """
        arrays: dict[str, np.ndarray] = {
            "epochs": np.array(self.epochs),
            "epoch": np.array([frame.epoch for frame in self.frames], dtype=np.int32),
            "text": np.array([frame.text for frame in self.frames], dtype=np.str_),
            "sites": np.array(self.sites(), dtype=np.str_),
        }
        for name, points in self.losses.items():
            arrays[f"loss/{name}"] = np.array(points, dtype=np.float64)
        for site in self.sites():
            found = [frame.fields.get(site) for frame in self.frames]
            counts = [0 if members is None else len(members["row"]) for members in found]
            arrays[f"{site}/count"] = np.array(counts, dtype=np.int32)
            for name in COLUMNS:
                parts = [members[name] for members in found if members is not None]
                arrays[f"{site}/{name}"] = np.concatenate(parts)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> GrowthRecord:
        """The record that `to_bytes` has told."""
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        fields: list[dict[str, Members]] = [{} for _ in arrays["epoch"]]
        for site in arrays["sites"].tolist():
            counts = arrays[f"{site}/count"]
            cuts = counts.cumsum()[:-1]
            columns = {name: np.split(arrays[f"{site}/{name}"], cuts) for name in COLUMNS}
            for index in counts.nonzero()[0].tolist():
                fields[index][site] = {name: parts[index] for name, parts in columns.items()}
        frames = [
            Frame(int(epoch), found, str(text))
            for epoch, found, text in zip(arrays["epoch"], fields, arrays["text"], strict=True)
        ]
        losses = {
            name.removeprefix("loss/"): [(float(at), float(value)) for at, value in points]
            for name, points in arrays.items()
            if name.startswith("loss/")
        }
        return cls(int(arrays["epochs"]), frames, losses)


def parent_index(
    row: Int[np.ndarray, " n"], parent: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """Where each neuron's parent stands in the list; -1 for founders.

    Args:
        row: Names of the neurons, rising.
        parent: Name of each one's parent, or -1.
    """
    return np.where(parent < 0, -1, np.searchsorted(row, parent))


def families(row: Int[np.ndarray, " n"], parent: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Row of the founder that each neuron descends from; arguments as in `parent_index`."""
    above = parent_index(row, parent)
    ancestor = np.where(above < 0, np.arange(len(row)), above)
    while not np.array_equal(ancestor, ancestor[ancestor]):
        ancestor = ancestor[ancestor]
    return row[ancestor]
