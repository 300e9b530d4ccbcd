"""Panels of a picture of growth; each is drawn once and then moved from frame to frame."""

from __future__ import annotations

import textwrap
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from crystalline.interpret.growth_frames import Frame, GrowthRecord

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

LEARNING = "tab:blue"
"""Where families have no colours."""
FROZEN = "0.62"
"""Grey; the same in markers, bars, curves and legends."""
_BINS = 30
_LINE = 60  # characters of a sample
_LINES = 8


class Panel(ABC):
    """A part of the picture."""

    moving: Sequence[Artist]
    """What differs from frame to frame, from the lowest to the highest."""

    @abstractmethod
    def show(self, index: int) -> None:
        """Move to a frame of the record."""


class Curves(Panel):
    """Losses and numbers of neurons, up to the epoch of the frame."""

    def __init__(self, axes: Axes, record: GrowthRecord) -> None:
        self.epochs = [frame.epoch for frame in record.frames]
        counts = [_joined(frame, "frozen") for frame in record.frames]
        curves = {
            "neurons": [(e, len(c)) for e, c in zip(self.epochs, counts, strict=True)],
            "frozen": [(e, int(c.sum())) for e, c in zip(self.epochs, counts, strict=True)],
        }
        right = axes.twinx()
        self.curves = []
        colours = {"loss/prediction": "lightcoral", "val/loss": "firebrick"}
        for name, points in (record.losses | curves).items():
            side = axes if name in record.losses else right
            colour = {"neurons": LEARNING, "frozen": FROZEN}.get(name) or colours.get(name)
            (line,) = side.plot(*zip(*points, strict=True), color=colour, label=name)
            self.curves.append((line, np.array(points, dtype=float)))
        axes.set_xlim(0, max(record.epochs, 1))
        axes.set_xlabel("epoch")
        axes.set_ylabel("nats a token", color="firebrick")
        right.set_ylabel("neurons", color=LEARNING)
        right.set_ylim(bottom=0)
        for side in (axes, right):
            side.autoscale(False)
        self.moving = [line for line, _ in self.curves]
        names = [str(line.get_label()) for line in self.moving]
        axes.legend(self.moving, names, fontsize="x-small", loc="center right")

    def show(self, index: int) -> None:
        for line, points in self.curves:
            line.set_data(*points[points[:, 0] <= self.epochs[index]].T)


class _Histogram(Panel):
    """Neurons that learn, and frozen ones, by some quantity.

    Args:
        axes: To draw on.
        values: Of each frame, a number a neuron.
        frozen: Of each frame, bool.
        edges: Of the bins.
    """

    def __init__(
        self,
        axes: Axes,
        values: list[np.ndarray],
        frozen: list[np.ndarray],
        edges: Float[np.ndarray, " bins"],
    ) -> None:
        self.counts = [
            [np.histogram(v[f], edges)[0], np.histogram(v[~f], edges)[0]]
            for v, f in zip(values, frozen, strict=True)
        ]
        blank = np.zeros(len(edges) - 1)
        self.moving = self.bars = [
            axes.stairs(blank, edges, fill=True, color=FROZEN, label="frozen"),
            axes.stairs(blank, edges, color=LEARNING, linewidth=1.8, label="learning"),
        ]
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, 1.05 * max(1, *(int(c.max()) for pair in self.counts for c in pair)))
        axes.set_ylabel("neurons")
        axes.legend(fontsize="x-small")

    def show(self, index: int) -> None:
        for bar, counts in zip(self.bars, self.counts[index], strict=True):
            bar.set_data(counts)


class Activities(_Histogram):
    """Neurons by activity, on a logarithmic axis; those without any are left out."""

    def __init__(self, axes: Axes, record: GrowthRecord) -> None:
        values = [_joined(frame, "activity") for frame in record.frames]
        known = np.concatenate(values)
        known = known[known > 0]
        low, high = (known.min(), known.max()) if len(known) else (0.1, 1.0)
        edges = np.geomspace(0.99 * low, 1.01 * high, _BINS + 1)
        super().__init__(axes, values, [_joined(f, "frozen") for f in record.frames], edges)
        axes.set_xscale("log")
        axes.set_xlabel("activity: norm of the gradient of the position")


class Births(_Histogram):
    """Neurons by the epoch of their birth."""

    def __init__(self, axes: Axes, record: GrowthRecord) -> None:
        values = [_joined(frame, "birth") for frame in record.frames]
        edges = np.linspace(0, max(record.epochs, 1), _BINS + 1)
        super().__init__(axes, values, [_joined(f, "frozen") for f in record.frames], edges)
        axes.set_xlabel("epoch of birth; founders at 0")


class Sample(Panel):
    """The text that the model wrote."""

    def __init__(self, axes: Axes, record: GrowthRecord) -> None:
        self.texts = [wrapped(frame.text) for frame in record.frames]
        axes.set_axis_off()
        axes.set_title("what the model writes", fontsize="medium")
        self.text = axes.text(0.0, 0.95, "", transform=axes.transAxes, va="top", parse_math=False,
                              family="monospace", fontsize=9.5, in_layout=False)  # fmt: skip
        self.moving = [self.text]

    def show(self, index: int) -> None:
        self.text.set_text(self.texts[index])


def wrapped(text: str) -> str:
    """At most 480 characters in lines of 60; what the font may lack becomes a question mark."""
    words = (
        "".join(c if c.isprintable() and c < "\u0180" else "?" for c in word)
        for word in text.split()
    )
    return "\n".join(textwrap.wrap(" ".join(words), _LINE)[:_LINES])


def _joined(frame: Frame, column: str) -> np.ndarray:
    """A column of all fields of a frame."""
    found = [members[column] for members in frame.fields.values()]
    return np.concatenate(found) if found else np.zeros(0)
